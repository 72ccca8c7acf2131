"""`resnet-v2 serve`: its answers, what it refuses, its batches, its counts and its end."""

import asyncio
import contextlib
import io
import json
import re
import signal
import socket
import struct
import threading
import time
import urllib.request
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Run
from conftest import picture as some_picture
from processes import PATIENCE_SECONDS, Command
from resnet_v2.config.serving import ServeConfig
from resnet_v2.data.jpeg import encode
from resnet_v2.errors import ResnetError
from resnet_v2.inference.engines import Images, Logits
from resnet_v2.inference.predict import Predictor
from resnet_v2.serving.batching import Batcher, batch_sizes

pytest.importorskip("fastapi", reason="missing fastapi: pip install -e '.[dev]'")

import httpx

from resnet_v2.serving.http_api import application

ROOT = Path(__file__).parents[1]
STATUSES = (200, 400, 408, 413, 415, 422, 500, 503, 507)
Ask = Callable[[httpx.AsyncClient], Awaitable[None]]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """The network that ships."""
    return Predictor.open("", device="cpu")


@pytest.fixture
def picture() -> bytes:
    """A good picture."""
    return image(7)


def image(seed: int) -> bytes:
    """A PNG, different for every seed."""
    return encode(some_picture(seed, 50, 60), ".png", 3)


def visit(predictor: Predictor, ask: Ask, **settings: Any) -> None:
    """Ask a server that stands in this process."""

    async def visits() -> None:
        server, _ = application(predictor, ServeConfig(**settings))
        inner = server._application
        async with inner.router.lifespan_context(inner):  # type: ignore[attr-defined]
            transport = httpx.ASGITransport(app=server, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                await ask(client)

    asyncio.run(visits())


def form(*files: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("image", file) for file in files]


def png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_the_answers_are_those_of_predict(
    predictor: Predictor, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("7.png").write_bytes(image(7))
    Path("8.png").write_bytes(image(8))
    status, printed, _ = run("predict", "--img", "7.png", "--json", "--top", 2, "--gpus", "")
    (alone,) = json.loads(printed)
    assert status == 0

    async def ask(client: httpx.AsyncClient) -> None:
        data = Path("7.png").read_bytes()
        answer = await client.post("/predict?top=2", files=form(("7.png", data)))
        assert (answer.status_code, answer.json()) == (200, [alone])  # to the last digit
        for kind in ("image/png", "application/octet-stream", "IMAGE/PNG; x=y", None):
            headers = {} if kind is None else {"content-type": kind}
            (found,) = (await client.post("/predict?top=2", content=data, headers=headers)).json()
            assert found == alone | {"image": "-"}
        names = ["7.png", "8.png", "../../etc/passwd", 'ü,"x.png']
        files = form(*((name, Path("8.png" if name == "8.png" else "7.png").read_bytes()) for name in names))
        listed = (await client.post("/predict", files=files)).json()
        assert [one["image"] for one in listed][:3] == names[:3]
        assert [one["top"][0]["name"] for one in listed] == [
            listed[0]["top"][0]["name"],
            listed[1]["top"][0]["name"],
        ] + [listed[0]["top"][0]["name"]] * 2
        shares = [one["probability"] for one in listed[0]["top"]]
        assert len(shares) == 5
        assert shares[:2] == pytest.approx([one["probability"] for one in alone["top"]], abs=1e-6)

    visit(predictor, ask)


def test_what_is_wrong_gets_a_sentence(predictor: Predictor, picture: bytes) -> None:
    cases: list[tuple[int, str, dict[str, Any]]] = [
        (422, "a.jpg is no readable image: ", {"files": form(("a.jpg", b"no picture"))}),
        (422, "b.png is no readable image: ", {"files": form(("7.png", picture), ("b.png", picture[:120]))}),
        (
            422,
            "The picture is no readable image: ",
            {"content": picture[:120], "headers": {"content-type": "image/png"}},
        ),
        (422, "more than 178956970", {"files": form(("huge.png", png(60000, 60000)))}),
        (400, "The picture is empty", {"files": form(("a.png", b""))}),
        (400, "The picture is empty", {"content": b""}),
        (400, "has an @ before it: -F image=@cat.jpg", {"data": {"image": "cat.jpg"}, "files": {"x": (None, b"y")}}),
        (400, "curl -F image=@cat.jpg", {"files": {"image": (None, bytes(2**20 + 1))}, "params": {"x": "y"}}),
        (400, "no form", {"content": b"--x", "headers": {"content-type": "multipart/form-data; boundary=x"}}),
        (400, "no form", {"content": picture, "headers": {"content-type": "multipart/form-data"}}),
        (415, "no picture by its type", {"json": {"image": "cat.jpg"}}),
        (415, "no picture by its type", {"data": {"image": "cat.jpg"}}),
        (413, "A picture may have 1 MB; send a smaller one", {"content": bytes(2**20 + 1)}),
        (413, "send a smaller picture, or fewer", {"files": form(("a", bytes(2**20 + 20000)))}),
        (413, "may have 1 MB, all its", {"files": form(("a", bytes(2**19)), ("b", bytes(2**19 + 20000)))}),
        (413, "A picture may have 1 MB", {"content": b"", "headers": {"content-length": "9" * 20}}),
        (413, "A form may hold 3 pictures", {"files": form(*[("a", picture)] * 4)}),
        (422, "`top` must be a whole number", {"params": {"top": "0"}, "content": picture}),
        (422, "`top` must be a whole number", {"params": {"top": "many"}, "content": picture}),
    ]

    async def ask(client: httpx.AsyncClient) -> None:
        for status, sentence, request in cases:
            answer = await client.post("/predict", **request)
            assert answer.status_code == status, (sentence, answer.text)
            (said,) = answer.json().values()
            assert sentence in said
            assert said.endswith(".") and "\n" not in said and "Traceback" not in said
            assert answer.headers["x-content-type-options"] == "nosniff"
        answer = await client.get("/predict")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert answer.json() == {"detail": "/predict takes POST alone."}
        answer = await client.post("/", content=picture)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
        assert answer.json() == {"detail": "/ takes GET alone; POST pictures to /predict."}
        for path in ("/x", "/redoc", "/predict/x", "/predict/", "/%2e%2e/etc/passwd"):
            answer = await client.get(path)
            assert (answer.status_code, answer.json()["detail"][:21]) == (404, "There is nothing here")
            for known in ("/predict", "/healthz", "/metrics", "/openapi.json", "/docs"):
                assert known in answer.json()["detail"]
        assert (await client.head("/healthz")).status_code == 200
        assert (await client.post("/predict", content=picture)).status_code == 200

    visit(predictor, ask, upload_mb=1, queue=3)


def test_a_picture_too_small_for_an_answer_is_told(predictor: Predictor) -> None:
    async def ask(client: httpx.AsyncClient) -> None:
        pictures = {height: encode(np.full((height, 9, 3), 7, np.uint8), ".png", 3) for height in (1, 7, 8)}
        files = form(*((f"{height}.png", data) for height, data in pictures.items()))
        answers = (await client.post("/predict", files=files)).json()
        assert [one.get("warning", "") for one in answers] == [
            "9 x 1 pixels show too little for an answer to mean much.",
            "9 x 7 pixels show too little for an answer to mean much.",
            "",
        ]
        assert [len(one["top"]) for one in answers] == [5, 5, 5]

    visit(predictor, ask)


class Slow:
    """The engine of a network that answers when it may, and notes its batches."""

    def __init__(self, engine: Any) -> None:
        self.where, self.batches, self.may, self._engine = engine.where, list[int](), threading.Event(), engine

    def logits(self, images: Images) -> Logits:
        self.batches.append(len(images))
        assert self.may.wait(PATIENCE_SECONDS)
        return self._engine.logits(images)  # type: ignore[no-any-return]


def test_what_comes_at_once_is_answered_together_and_what_is_too_much_is_told(
    predictor: Predictor, picture: bytes
) -> None:
    slow = Slow(predictor.engine)

    async def ask(client: httpx.AsyncClient) -> None:
        first = asyncio.create_task(client.post("/predict", content=picture))
        while not slow.batches:
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(client.post("/predict", content=picture)) for _ in range(11)]
        counts = ""
        while "resnet_v2_queue 12.0" not in counts:
            await asyncio.sleep(0.01)
            counts = (await client.get("/metrics")).text
        for request in ({"content": picture}, {"files": form(("a", picture))}):
            answer = await client.post("/predict", **request)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert answer.json() == {"detail": "Too many pictures wait; send this again in a second."}
        assert (await client.get("/healthz")).json()["status"] == "ok"
        await asyncio.sleep(0.3)  # until the others have been read
        slow.may.set()
        answers = await asyncio.gather(first, *others)
        assert [answer.status_code for answer in answers] == [200] * 12
        assert len({answer.json()[0]["top"][0]["class"] for answer in answers}) == 1
        assert slow.batches == [1, 8, 2, 1]
        counts = (await client.get("/metrics")).text
        for line in (
            'resnet_v2_requests_total{status="200"} 12.0',
            'resnet_v2_requests_total{status="503"} 2.0',
            "resnet_v2_errors_total 2.0",
            "resnet_v2_request_seconds_count 14.0",
            "resnet_v2_batch_size_sum 12.0",
            "resnet_v2_batch_size_count 4.0",
            "resnet_v2_queue 0.0",
        ):
            assert f"\n{line}\n" in counts, counts

    visit(Predictor(slow, predictor.header), ask, queue=12, batch_size=8)


def test_who_waits_too_long_is_told(predictor: Predictor, picture: bytes) -> None:
    slow = Slow(predictor.engine)

    async def stalls() -> Any:
        yield picture[:100]
        await asyncio.Future()

    async def ask(client: httpx.AsyncClient) -> None:
        answer = await client.post("/predict", content=picture)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json() == {"detail": "No answer within 1 seconds; send this again later."}
        slow.may.set()
        answer = await client.post("/predict", content=stalls())
        assert (answer.status_code, answer.headers["connection"]) == (408, "close")
        assert (await client.post("/predict", content=picture)).status_code == 200

    visit(Predictor(slow, predictor.header), ask, seconds=1)


def test_a_network_with_a_fault_says_so(predictor: Predictor, picture: bytes) -> None:
    class Broken:
        where = "here"
        raises: Exception | None = None

        def logits(self, images: Images) -> Logits:
            if self.raises is not None:
                raise self.raises
            return np.full((len(images), 10), np.nan, np.float32)

    async def ask(client: httpx.AsyncClient) -> None:
        answer = await client.post("/predict", content=picture)
        assert (answer.status_code, answer.json()["detail"][:40]) == (500, "The network answers with what is no numb")
        Broken.raises = RuntimeError("/home/secret")
        answer = await client.post("/predict", content=picture)
        assert (answer.status_code, answer.json()) == (500, {"detail": "The server has a fault; its log tells more."})

    visit(Predictor(Broken(), predictor.header), ask)


def test_the_page_of_the_api_loads_nothing(predictor: Predictor) -> None:
    async def ask(client: httpx.AsyncClient) -> None:
        page, schema = (await client.get("/docs")).text, (await client.get("/openapi.json")).json()
        assert (await client.get("/")).text == page  # who opens the address in a browser sees it
        assert not re.search(r"https?://|<script|src=|@import|url\(|`|Successful Response", page)
        assert "<code>resnet-v2 predict --json</code>" in page
        for path in ("/predict", "/healthz", "/metrics"):
            assert path in schema["paths"] and path in page
        assert set(schema["paths"]["/predict"]["post"]["responses"]) == {str(status) for status in STATUSES}
        assert "multipart/form-data" in schema["paths"]["/predict"]["post"]["requestBody"]["content"]
        assert "HTTPValidationError" not in json.dumps(schema["paths"])

    visit(predictor, ask)


def test_sizes_of_batches() -> None:
    assert batch_sizes(1) == [1]
    assert batch_sizes(8) == [1, 2, 4, 8]
    assert batch_sizes(20) == [1, 2, 4, 8, 16, 20]

    async def gone() -> None:
        seen: list[int] = []
        batcher = Batcher(lambda images: images.reshape(len(images), -1).astype(np.float64), 4, 0.05, seen.append)
        working = asyncio.create_task(batcher.run())
        rows = [asyncio.create_task(batcher.row(np.full((1, 1, 3), n, np.uint8))) for n in range(4)]
        await asyncio.sleep(0)
        rows[1].cancel()
        found = await asyncio.gather(*rows, return_exceptions=True)
        assert [row[0] if isinstance(row, np.ndarray) else None for row in found] == [0, None, 2, 3]
        assert seen == [2, 1]  # who has gone takes no place
        working.cancel()

    asyncio.run(gone())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Command, str]]:
    """The command with its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = Command(["serve", "--port", port, "--gpus", "", "--batch-size", "2"], tmp_path)
    command.wait_for(lambda: "answers at" in command.output, "the server", 0.1)
    yield command, f"http://127.0.0.1:{port}"
    with contextlib.suppress(ValueError):  # the test has seen its end
        command.kill()


def test_the_command_from_its_first_sentence_to_its_last(
    server: tuple[Command, str], picture: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client of docs/serving.md, and the end: what has begun is answered."""
    command, address = server
    client = re.search(r"^    # A client\n((?:    .*\n|\n)+)", (ROOT / "docs" / "serving.md").read_text(), re.MULTILINE)
    assert client is not None
    lines = client[1].strip("\n").splitlines()
    assert len(lines) <= 10
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.jpg").write_bytes(picture)
    printed = io.StringIO()
    code = "\n".join(line.removeprefix("    ") for line in lines).replace("http://127.0.0.1:8000", address)
    exec(code, {"print": lambda *words: print(*words, file=printed)})
    assert re.fullmatch(r"\S+ \d\.\d+\n", printed.getvalue())
    data = picture
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as begun:
        head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: {len(data)}\r\n\r\n"
        begun.sendall(head.encode() + data[:100])
        time.sleep(0.2)
        command.send_signal(signal.SIGTERM)
        while True:  # until nobody is let in any more
            try:
                urllib.request.urlopen(f"{address}/healthz", timeout=PATIENCE_SECONDS).close()
            except OSError:
                break
        begun.sendall(data[100:])
        answer = begun.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200 OK")
    status, output = command.finish()
    assert status == 0, output
    told, last = output.strip().splitlines()
    assert told == f"ResNet-14-v2 answers at {address}/predict, told of at {address}/docs (Ctrl-C ends it)"
    assert last == "ended after 2 requests, 0 of them refused"


def test_the_command_ends_by_an_interrupt(server: tuple[Command, str]) -> None:
    command, _ = server
    command.send_signal(signal.SIGINT)
    status, output = command.finish()
    assert status == 130
    assert output.splitlines()[1:] == ["ended after 0 requests, 0 of them refused", "", "stopped"]


def test_addresses_and_packages_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from resnet_v2.serving.serve import serve

    with pytest.raises(ResnetError, match=r"Nothing can listen at 203\.0\.113\.7, port 8000: "):
        serve(ServeConfig("none", host="203.0.113.7"))
    monkeypatch.setitem(__import__("sys").modules, "fastapi", None)
    with pytest.raises(ResnetError, match=r"fastapi is not installed; install it with pip install -e '\.\[serve\]'"):
        serve(ServeConfig("none"))
