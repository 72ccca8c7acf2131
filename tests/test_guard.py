"""The page behind its guard: what it refuses, how fast, and the whole of it under a short load."""

import asyncio
import gc
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from processes import PATIENCE_SECONDS, Command
from resnet_v2.config.serving import DemoConfig
from resnet_v2.errors import ResnetError
from resnet_v2.networks.architecture import Architecture
from resnet_v2.networks.header import Header
from resnet_v2.networks.resnet import resnet
from resnet_v2.serving.demo import Explainer, page, unique_names
from resnet_v2.serving.sessions import SETTLING_SECONDS
from resnet_v2.serving.uploads import ANSWERED, PICTURES, Uploads

pytest.importorskip("gradio", reason="missing gradio: pip install -e '.[dev]'")

import httpx
from starlette.types import Message, Receive, Scope, Send

from resnet_v2.serving import guard as guards
from resnet_v2.serving.forms import NO_PICTURE, TEXT
from resnet_v2.serving.guard import CLOSED

UPLOAD = {"files": ("a.png", b"some bytes", "image/png")}
QUESTION = {"data": [{"path": "abc"}], "fn_index": 0, "session_hash": "s1"}


class Behind:
    """What stands in gradio's place: it notes what it is asked and told to forget, and answers when `may` is set."""

    def __init__(self, kind: str = "text/plain") -> None:
        self.asked: list[tuple[str, bytes]] = []
        self.forgotten: list[str] = []
        self.pending_messages_per_session = {"s1": "kept"}
        self.pending_event_ids_session: dict[str, set[str]] = {}
        self.may, self.leave, self._kind = asyncio.Event(), asyncio.Event(), kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b"" if scope["path"].endswith("/data") else (await receive()).get("body", b"")
        self.asked.append((scope["path"], body))
        if scope["path"].endswith("/join"):
            self.pending_event_ids_session.setdefault(json.loads(body)["session_hash"], set()).add("e")
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", self._kind.encode())]})
        if not scope["path"].endswith("/join"):
            await self.may.wait()
        await send({"type": "http.response.body", "body": b"from behind"})
        if scope["path"].endswith("/data"):
            self.pending_event_ids_session.clear()
            await send({"type": "http.response.body", "body": CLOSED})

    async def clean_events(self, session_hash: str) -> None:
        self.forgotten.append(session_hash)


Visit = Callable[[Callable[..., httpx.AsyncClient], Behind], Awaitable[None]]


def visit(visit: Visit, limits: DemoConfig, kind: str = "text/plain", answering: bool = True) -> None:
    """Visit a guarded application with clients of any address."""
    uploads = Uploads(limits.queue)

    async def visits() -> None:
        behind = Behind(kind)
        if answering:
            behind.may.set()
        guard = guards.Guard(behind, uploads, limits, {0: 1, 1: 3}, behind)

        async def leaving(scope: Scope, receive: Receive, send: Send) -> None:
            async def receive_or_leave() -> Message:
                waits = [asyncio.ensure_future(one) for one in (receive(), behind.leave.wait())]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
                return {"type": "http.disconnect"} if behind.leave.is_set() else cast(Message, waits[0].result())

            await guard(scope, receive_or_leave, send)

        def client(address: str = "10.0.0.1") -> httpx.AsyncClient:
            transport = httpx.ASGITransport(app=leaving, client=(address, 5))
            return httpx.AsyncClient(transport=transport, base_url="http://page")

        await visit(client, behind)

    asyncio.run(visits())
    for token in list(uploads._uploads):
        uploads.remove(token)


def test_what_the_page_does_not_need_does_not_exist() -> None:
    async def ask(client: Callable[..., httpx.AsyncClient], behind: Behind) -> None:
        for path in ("/", "/config", "/assets/a.js", "/theme.css"):
            assert (await client().get(path)).text == "from behind"
        behind.asked.clear()
        for path in (
            *(
                "/docs",
                "/openapi.json",
                "/monitoring",
                "/monitoring/summary",
                "/login",
                "/gradio_api/info",
                "/file=/etc/passwd",
            ),
            *(
                "/gradio_api/proxy=http://a/",
                "/gradio_api/component_server",
                "/gradio_api/queue/status",
                "/assets/",
                "/x/config",
            ),
            *(
                "/gradio_api/file=/etc/passwd",
                "/gradio_api/upload",
                "/config/x",
            ),
        ):
            answer = await client().get(path)
            assert (answer.status_code, answer.headers["x-content-type-options"]) == (404, "nosniff"), path
        for path in ("/", "/config", "/gradio_api/run/predict", "/gradio_api/cancel", "/gradio_api/vibe-edit"):
            assert (await client().post(path)).status_code == 404, path
        assert behind.asked == []

    visit(ask, DemoConfig())


def test_questions_are_written_anew() -> None:
    async def ask(client: Callable[..., httpx.AsyncClient], behind: Behind) -> None:
        more = {"event_data": {"a": 1}, "trigger_id": 5, "batched": True, "request": "x"}
        await client().post("/gradio_api/queue/join", json=QUESTION | more)
        assert json.loads(behind.asked.pop()[1]) == QUESTION | {"data": ["abc"]}
        other = QUESTION | {"session_hash": "s2"}
        picture = {"path": {"x": 1}, "url": "http://a/", "meta": {"_type": "gradio.FileData"}}
        await client().post("/gradio_api/queue/join", json=other | {"data": [picture, 5, None], "fn_index": 1})
        assert json.loads(behind.asked.pop()[1])["data"] == ["", 5, None]
        several = [{"path": "a" * 32, "orig_name": "x"}, {"url": "http://a/"}]
        await client().post("/gradio_api/queue/join", json=other | {"data": [several]})
        assert json.loads(behind.asked.pop()[1])["data"] == [["a" * 32, ""]]
        wrongs: tuple[dict[str, Any], ...] = (
            *({"fn_index": 2}, {"fn_index": True}, {"fn_index": "0"}, {"session_hash": "../a"}, {"session_hash": None}),
            *({"data": []}, {"data": ["abc"]}, {"data": [[1]]}, {"data": [True]}, {"data": {"0": 1}}, {"data": [1.5]}),
            {"data": [[{"path": "a"}] * (PICTURES + 1)]},
        )
        for wrong in wrongs:
            answer = await client().post("/gradio_api/queue/join", json=QUESTION | wrong)
            assert (answer.status_code, answer.json()) == (400, {"detail": "This is no question that the page asks."})
        for body in (b"[" * 9000, b"\xff", b"{}", b"[]", b"null"):
            assert (await client().post("/gradio_api/queue/join", content=body)).status_code == 400
        assert (await client().post("/gradio_api/queue/join", content=b" " * 20000)).status_code == 413
        assert behind.asked == []

    visit(ask, DemoConfig())


def test_who_is_too_fast_waits_and_nobody_else() -> None:
    async def ask(client: Callable[..., httpx.AsyncClient], behind: Behind) -> None:
        for number in range(6):
            answer = await client().post("/gradio_api/upload", files=UPLOAD)
            assert answer.status_code == (200 if number < 3 else 429)
        assert re.fullmatch(r"More than 3 requests in a minute; try again in \d+ seconds\.", answer.text)
        assert (await client().post("/gradio_api/queue/join", json=QUESTION)).status_code == 429
        assert (await client("10.0.0.2").post("/gradio_api/upload", files=UPLOAD)).status_code == 200

    visit(ask, DemoConfig(requests_per_minute=3))


def test_haste_is_forgotten_within_a_minute() -> None:
    now = 0.0
    haste = guards.Haste(60, lambda: now)
    assert [haste.wait("a") for _ in range(61)] == [0.0] * 60 + [1.0]
    now = 2.0
    assert [haste.wait("a") > 0 for _ in range(3)] == [False, False, True]
    now = 1000.0
    assert sum(haste.wait("a") == 0 for _ in range(100)) == 60


def test_uploads_have_a_size_and_no_path() -> None:
    async def ask(client: Callable[..., httpx.AsyncClient], behind: Behind) -> None:
        for name in ("a.png", "../../etc/passwd", "a\x1b[2J.svg"):
            data = b"<svg>" + os.urandom(2**17)
            (token,) = (
                await client().post("/gradio_api/upload", files={"files": (name, data, "image/svg+xml")})
            ).json()
            assert len(token) == 32 and token.isalnum()
            file = await client().get(f"/gradio_api/file={token}")
            assert file.content == data
            assert (file.headers["content-type"], file.headers["content-disposition"]) == (
                "application/octet-stream",
                "attachment",
            )
        three = [("files", (f"{number}.png", b"some", "image/png")) for number in range(3)]
        assert len((await client().post("/gradio_api/upload", files=three)).json()) == 3
        many = await client().post("/gradio_api/upload", files=three * 7)
        assert (many.status_code, many.text) == (413, "A form may hold 20 pictures; send fewer at a time.")
        large = {"files": ("a.png", bytes(2**20 + 20000), "image/png")}
        assert (await client().post("/gradio_api/upload", files=large)).status_code == 413

        async def unannounced() -> AsyncIterator[bytes]:
            yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
            for _ in range(20):
                yield bytes(2**16)

        form = {"content-type": "multipart/form-data; boundary=x"}
        answer = await client().post("/gradio_api/upload", content=unannounced(), headers=form)
        assert (answer.status_code, answer.text) == (
            413,
            "A request may have 1 MB, all its pictures together; send a smaller picture, or fewer at a time.",
        )
        text = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n--x--\r\n'
        for body, told in ((b"", NO_PICTURE), (b"--x--", NO_PICTURE), (b"nothing", NO_PICTURE), (text, TEXT)):
            answer = await client().post("/gradio_api/upload", content=body, headers=form)
            assert (answer.status_code, answer.text) == (400, told)

    visit(ask, DemoConfig(upload_mb=1))


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    async def ask(client: Callable[..., httpx.AsyncClient], behind: Behind) -> None:
        large = {"files": ("a.png", bytes(2**17), "image/png")}
        monkeypatch.setattr("tempfile.TemporaryFile", full)
        answer = await client().post("/gradio_api/upload", files=large)
        assert (answer.status_code, answer.text[:20]) == (507, "The temporary folder")
        assert (await client().post("/gradio_api/upload", files=UPLOAD)).status_code == 200

    visit(ask, DemoConfig())


def test_what_takes_too_long_ends() -> None:
    async def ask(client: Callable[..., httpx.AsyncClient], behind: Behind) -> None:
        async def stalls() -> AsyncIterator[bytes]:
            yield b"--x\r\n"
            await asyncio.Future()

        form = {"content-type": "multipart/form-data; boundary=x"}
        answer = await client().post("/gradio_api/upload", content=stalls(), headers=form)
        assert (answer.status_code, answer.headers["connection"]) == (408, "close")
        assert answer.text == "This took longer than 1 seconds; try again later."
        assert (await client().post("/gradio_api/queue/join", json=QUESTION)).status_code == 200
        said = (await client().get("/gradio_api/queue/data?session_hash=s1")).content
        assert said.endswith(CLOSED)
        assert json.loads(said.removesuffix(CLOSED).removeprefix(b"data: "))["msg"] == "unexpected_error"
        assert (await client().get("/gradio_api/queue/data?session_hash=s1")).content == CLOSED
        assert behind.pending_messages_per_session == {}

    visit(ask, DemoConfig(seconds=1), "text/event-stream", answering=False)


def test_who_does_not_come_for_the_answer_is_forgotten() -> None:
    async def ask(client: Callable[..., httpx.AsyncClient], behind: Behind) -> None:
        assert (await client().post("/gradio_api/queue/join", json=QUESTION)).status_code == 200
        while not behind.forgotten:
            await asyncio.sleep(0.01)
        assert behind.forgotten == ["s1"]
        assert (await client().get("/gradio_api/queue/data?session_hash=s1")).content == CLOSED

    visit(ask, DemoConfig(seconds=1))


DATA = "/gradio_api/queue/data?session_hash=s1"


async def joined(client: Callable[..., httpx.AsyncClient]) -> float:
    """Ask a question; how many seconds it took until that was answered."""
    begun = asyncio.get_running_loop().time()
    assert (await client().post("/gradio_api/queue/join", json=QUESTION)).status_code == 200
    return asyncio.get_running_loop().time() - begun


def test_a_session_hears_all_answers_on_one_stream() -> None:
    """A browser that hears of its question's number while its stream ends takes it for open, and waits for ever."""

    async def ask(client: Callable[..., httpx.AsyncClient], behind: Behind) -> None:
        await joined(client)
        stream = asyncio.create_task(client().get(DATA))
        for number in range(1, 4):
            while len(behind.asked) < 2 * number:
                await asyncio.sleep(0.01)
            assert (await client().get(DATA)).content == CLOSED  # it has one
            await asyncio.sleep(1.2 * SETTLING_SECONDS)
            assert not stream.done()
            if number < 3:
                assert await joined(client) < SETTLING_SECONDS
        assert [path.rpartition("/")[2] for path, _ in behind.asked] == ["join", "data"] * 3
        assert (await stream).content == b"from behind" * 3 + CLOSED
        assert behind.pending_messages_per_session == {}

    visit(ask, DemoConfig(seconds=1), "text/event-stream")


def test_a_question_is_taken_when_the_end_of_a_stream_is_known() -> None:
    async def ask(client: Callable[..., httpx.AsyncClient], behind: Behind) -> None:
        assert await joined(client) < SETTLING_SECONDS / 2
        await client().get(DATA)
        assert await joined(client) >= 0.9 * SETTLING_SECONDS
        await client().get(DATA)

    visit(ask, DemoConfig(seconds=1), "text/event-stream")


def test_a_browser_that_is_gone_leaves_its_stream() -> None:
    async def ask(client: Callable[..., httpx.AsyncClient], behind: Behind) -> None:
        await joined(client)
        listening = asyncio.create_task(client().get(DATA))
        while len(behind.asked) < 2:
            await asyncio.sleep(0.01)
        behind.leave.set()
        await asyncio.wait_for(listening, 5)
        assert behind.pending_messages_per_session == {}

    visit(ask, DemoConfig(seconds=60), "text/event-stream")


def test_uploads_leave() -> None:
    uploads = Uploads(10)
    files = [io.BytesIO(bytes([number])) for number in range(ANSWERED + 2)]
    modest = uploads.add(io.BytesIO(b"modest"), "modest")
    tokens = [uploads.add(file, "greedy") for file in files[:12]]
    assert [file.closed for file in files[:12]] == [True] * 3 + [False] * 9  # ten wait, and one of them is modest's
    assert uploads.read(modest) == b"modest"
    for gone in (tokens[0], "", "/etc/passwd", None, 5):
        with pytest.raises(ResnetError, match="The picture is no longer here; drop it again"):
            uploads.read(gone)
    for token in tokens[3:]:
        uploads.read(token)
    for file in files[12:]:
        uploads.read(uploads.add(file, "greedy"))
    assert len(uploads) == ANSWERED
    assert uploads.look(tokens[-1]) == bytes([11])  # also after it has been read


def test_classes_of_one_name() -> None:
    """ImageNet has two cranes and two maillots; the page names each, and each has its own probability."""
    header = Header.of_epoch(Architecture(20, 4, "cifar"), 1)
    for names, wanted in (
        (("crane", "dog", "crane", "cat"), ["0 crane", "1 dog", "2 crane", "3 cat"]),
        (("crane\x1b", "crane\\x1b", "", " "), ["0 crane\\x1b", "1 crane\\x1b", "2 ", "3  "]),
        (("a", "b", "c", "confidences"), ["a", "b", "c", "confidences"]),
    ):
        named = header.__class__(**(vars(header) | {"class_names": names}))
        assert unique_names(named) == wanted
        with warnings.catch_warnings():  # gradio leaves event loops open
            warnings.simplefilter("ignore", ResourceWarning)
            explainer = Explainer(resnet(20, classes=4), named, torch.device("cpu"))
            blocks = page(explainer, Path("a-0001.safetensors"))
            (explain,) = (one.fn for one in blocks.fns.values() if getattr(one.fn, "__name__", "") == "explain")
            picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            bars = explain(picture)[0]
            asyncio.set_event_loop(None)  # it is the last of those
            gc.collect()
        assert sorted(bars.values(), reverse=True) == [answer.probability for answer in explainer.classify(picture)]
        assert set(bars) == set(wanted)


def test_the_environment_opens_nothing(trained: str, tmp_path: Path) -> None:
    """Proxies, what gradio reads from the environment, and a folder of gradio's that is not ours."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "gradio").write_text("in the way, as a folder of another user is")
    nowhere = "http://127.0.0.1:9"
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"), nowhere)
    gradio = {"SERVER_NAME": "0.0.0.0", "SHARE": "True", "ALLOWED_PATHS": "/", "MCP_SERVER": "True", "ROOT_PATH": "/x"}
    gradio |= {"NUM_PORTS": "many", "SSR_MODE": "True", "DEFAULT_CONCURRENCY_LIMIT": "many", "TEMP_DIR": "/dev/null/x"}
    environment = (
        proxies | {f"GRADIO_{name}": value for name, value in gradio.items()} | {"TMPDIR": str(tmp_path / "t")}
    )
    command = Command(["demo", "--prefix", trained, "--port", port], tmp_path, None, **environment)
    command.wait_for(lambda: "The page: http://127.0.0.1" in command.output, "the page", 0.1)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    address = f"http://127.0.0.1:{port}"
    shown = opener.open(f"{address}/config", timeout=PATIENCE_SECONDS).read().decode()
    assert json.loads(shown)["root"] == address
    assert str(tmp_path) not in shown and str(Path(trained).parent) not in shown
    with pytest.raises(urllib.error.HTTPError, match="404"):
        opener.open(f"{address}/gradio_api/file={tmp_path}/t/gradio", timeout=PATIENCE_SECONDS)
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["gradio"]
    command.send_signal(signal.SIGINT)
    status, output = command.finish()
    assert status == 130
    assert output.splitlines() == [f"The page: {address} (Ctrl-C ends it)", "", "stopped"]


@pytest.mark.slow
def test_the_page_under_load(trained: str) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "page.py"
    words = [sys.executable, str(script), "--prefix", trained, "--uploads", "60", "--clients", "8"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("48 good pictures and 12 hostile visits of 8 clients")
