"""The page of `resnet-v2 demo` under load: many visitors at once, a fifth of what they send hostile.

    python benchmarks/page.py [--uploads 1000] [--clients 50] [--prefix P]

Starts the command with a temporary folder of its own and small limits, sends pictures and worse, and prints figures.
Every good picture must get the answer of `predict`, everything else a sentence or an HTTP error. Exit status 1 when
one did not, when an answer tells a path of this machine, when the log shows a traceback, or when a file is left.
The memory is the resident one of the server's process (Linux), after a fifth of the uploads and after all.
"""

import argparse
import asyncio
import contextlib
import io
import itertools
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image

import resnet_v2

UPLOAD_MB = 1
SECONDS = 10
PATIENCE_SECONDS = 600
STALLED_SECONDS = 120  # in which a silent sender must be dropped; the server's limits are far below
HIDDEN = [
    sys.prefix,
    str(Path(resnet_v2.__file__).parent),
    str(Path.home()),
    str(Path.cwd()),
    "Traceback",
    "site-packages",
]


def good_pictures(count: int) -> list[tuple[str, bytes]]:
    """Pictures of different sizes and formats: names and bytes."""
    rng = np.random.default_rng(0)
    made = []
    for number, kind in zip(range(count), itertools.cycle(("png", "jpeg", "webp", "bmp", "gif")), strict=False):
        coarse = PIL.Image.fromarray(rng.integers(0, 256, (6, 7, 3), dtype=np.uint8))
        file = io.BytesIO()
        coarse.resize((40 + 9 * number, 300 - 5 * number), PIL.Image.Resampling.BICUBIC).save(file, kind)
        made.append((f"{number}.{kind}", file.getvalue()))
    photo = io.BytesIO()
    coarse.resize((4000, 3000), PIL.Image.Resampling.BICUBIC).save(photo, "jpeg")
    return [*made, ("photo.jpg", photo.getvalue())]


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(10**6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def tiff(width: int, height: int) -> bytes:
    """The same of a TIFF."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 10)]
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(
        struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags
    )


SOME = good_pictures(1)[0][1]
NO_PICTURES = {
    "text": b"no picture",
    "empty": b"",
    "cut": SOME[: len(SOME) // 2],
    "png that claims 60000 x 60000": png(60000, 60000),
    "png that claims 13000 x 13000": png(13000, 13000),
    "gif that claims 65535 x 65535": b"GIF89a\xff\xff\xff\xff\x80\0\0"
    + bytes(6)
    + b",\0\0\0\0\xff\xff\xff\xff\0\2\2D\1\0;",
    "tiff that claims 10^9 x 10^9": tiff(10**9, 10**9),
    "bmp that claims 10^9 x 10^9": b"BM"
    + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, 10**9, 10**9, 1, 24, *[0] * 6),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "html": b"<html><script>alert(1)</script></html>",
}
NAMES = [
    "../../etc/passwd",
    "a\x1b[2Jb.png",
    "<img src=x>.png",
    "n" * 5000,
    "\u202egnp.exe",
    "CON",
    "a/b/c.png",
    "",
    ".",
]
QUESTIONS: list[object] = [
    [],
    {"data": [None], "fn_index": 10**6, "session_hash": "a"},
    {"data": [None], "fn_index": -1, "session_hash": "a"},
    {"data": [None], "fn_index": 0, "session_hash": "../a"},
    {"data": [None, 5, 6, 7], "fn_index": 0, "session_hash": "a"},
    {"data": [[[["x"]]]], "fn_index": 0, "session_hash": "a"},
    {"data": "x" * 10**5, "fn_index": 0, "session_hash": "a"},
    {"data": [True], "fn_index": 0},
]
ADDRESSES = [
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file=../../../../etc/passwd",
    "/file=/etc/passwd",
    "/static/../../../../etc/passwd",
    "/static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "/gradio_api/proxy=http://127.0.0.1:1/",
    "/gradio_api/info",
    "/monitoring/summary",
    "/docs",
    "/openapi.json",
    "/gradio_api/queue/status",
    "/gradio_api/component_server",
    "/gradio_api/heartbeat/a",
]


class Visitors:
    """Those who send to the page at `address`; `faults` says what was wrong, `counts` what was done."""

    def __init__(self, port: int, clients: int, hidden: list[str]) -> None:
        self.faults: list[str] = []
        self.good = self.hostile = 0
        self._port, self._hidden, self._address = port, hidden, f"http://127.0.0.1:{port}"
        limits = httpx.Limits(max_connections=2 * clients, max_keepalive_connections=clients)
        self._http = httpx.AsyncClient(base_url=self._address, timeout=PATIENCE_SECONDS, limits=limits, trust_env=False)
        self._stalled: list[asyncio.Task[None]] = []
        self._kinds: list[Callable[[int], Awaitable[str]]] = [
            self._no_picture,
            self._no_picture,
            self._strange_name,
            self._too_large,
            self._damaged_form,
            self._never_uploaded,
            self._no_question,
            self._no_address,
            self._stalls,
            self._leaves,
        ]

    async def send_good(self, name: str, data: bytes, wanted: dict[str, float], kind: str = "image/png") -> None:
        """A picture must get its answer."""
        self.good += 1
        found = await self._ask((await self._upload(name, data, kind))[0])
        output = found.get("output", {})
        bars = {bar["label"]: bar["confidence"] for bar in (output.get("data") or [{}])[0].get("confidences", [])}
        if bars.keys() != wanted.keys() or any(abs(bars[name] - wanted[name]) > 1e-5 for name in wanted):
            self.faults.append(f"{name}: {bars} {output.get('error')}, predict says {wanted}")

    async def send_hostile(self, number: int) -> None:
        """What is wrong must get a sentence or an HTTP error."""
        self.hostile += 1
        kind = self._kinds[number % len(self._kinds)]
        fault = await kind(number // len(self._kinds))
        if fault:
            self.faults.append(f"{kind.__name__} {number // len(self._kinds)}: {fault}")

    async def close(self) -> None:
        """Wait until the server has dropped those that stall."""
        await asyncio.gather(*self._stalled)
        await self._http.aclose()

    async def open(self) -> bool:
        """Whether the page is shown."""
        with contextlib.suppress(httpx.TransportError):
            return "resnet-v2" in self._clean((await self._http.get("/", headers={"accept": "text/html"})).text)
        return False

    async def questions(self) -> dict[int, int]:
        """The functions of the page and their numbers of inputs."""
        config = json.loads(self._clean((await self._http.get("/config")).text))
        return {function["id"]: len(function["inputs"]) for function in config["dependencies"]}

    def _clean(self, text: str) -> str:
        self.faults += [f"an answer tells {word}: {text[:300]}" for word in self._hidden if word in text]
        return text

    async def _upload(self, name: str, data: bytes, kind: str = "image/png") -> list[str]:
        response = await self._http.post("/gradio_api/upload", files={"files": (name, data, kind)})
        text = self._clean(response.text)
        return json.loads(text) if response.status_code == 200 else [f"{response.status_code}: {text}"]

    async def _ask(self, token: object) -> dict[str, Any]:
        session = f"{random.getrandbits(64):x}"
        value = {"path": token, "meta": {"_type": "gradio.FileData"}}
        question = {"data": [value], "fn_index": 0, "session_hash": session}
        joined = await self._http.post("/gradio_api/queue/join", json=question)
        self._clean(joined.text)
        if joined.status_code != 200:
            return {"output": {"error": joined.text}}
        async with self._http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            async for line in stream.aiter_lines():
                self._clean(line)
                if "process_completed" in line or "unexpected_error" in line:
                    said = json.loads(line.removeprefix("data:"))
                    return said if "output" in said else {"output": {"error": said["message"]}}
        return {"output": {}}

    async def _no_picture(self, number: int) -> str:
        name, data = list(NO_PICTURES.items())[(number + self.hostile) % len(NO_PICTURES)]
        (token,) = await self._upload(f"{name}.png", data)
        said = await self._ask(token)
        return "" if said.get("output", {}).get("error") else f"{name}: {said}"

    async def _strange_name(self, number: int) -> str:
        """The picture is a good one, of whatever name and type, so there is an answer, or the form is refused."""
        kind = ("text/html", "image/svg+xml", "x", "application/zip")[number % 4]
        (token,) = await self._upload(NAMES[number % len(NAMES)], SOME, kind)
        if token.startswith("400"):
            return "" if len(NAMES[number % len(NAMES)]) in (0, 5000) else token
        said = await self._ask(token)
        return "" if said.get("output", {}).get("data") else f"{said}"

    async def _too_large(self, number: int) -> str:
        (said,) = await self._upload("large.png", bytes(UPLOAD_MB * 2**20 + 10**5))
        return "" if said.startswith("413") else said

    async def _damaged_form(self, number: int) -> str:
        bodies = [b"", b"--x\r\n", b"--x\r\nContent-Disposition: form-data; name=f\r\n\r\n", b"\0" * 5000, b"--x--\r\n"]
        kinds = [
            "multipart/form-data; boundary=x",
            "multipart/form-data",
            "application/json",
            "multipart/form-data; boundary=",
        ]
        head = {"content-type": kinds[number % len(kinds)]}
        response = await self._http.post("/gradio_api/upload", content=bodies[number % len(bodies)], headers=head)
        self._clean(response.text)
        return "" if 400 <= response.status_code < 500 else f"{response.status_code} {response.text}"

    async def _never_uploaded(self, number: int) -> str:
        tokens: list[object] = ["0" * 32, "/etc/passwd", "../secret", "", None, 5, {"path": "x"}, "\0"]
        said = await self._ask(tokens[number % len(tokens)])
        return "" if not said.get("output", {}).get("data", [{}])[0] else f"{said}"

    async def _no_question(self, number: int) -> str:
        asked = QUESTIONS[number % len(QUESTIONS)]
        bodies = [json.dumps(asked).encode(), b"[" * 10000, b"{", b"\xff\xfe"]
        response = await self._http.post("/gradio_api/queue/join", content=bodies[number % 4 if number % 3 else 0])
        self._clean(response.text)
        return "" if 400 <= response.status_code < 500 else f"{response.status_code} {response.text}"

    async def _no_address(self, number: int) -> str:
        answer = await self._raw(
            f"GET {ADDRESSES[number % len(ADDRESSES)]} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        return "" if re.match(r"HTTP/1.1 4\d\d ", answer) else answer[:200]

    async def _stalls(self, number: int) -> str:
        """It stays silent in the middle, or sends on byte by byte; the server must end that."""
        parts = ["", "GET / HT", "POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\n"]
        parts.append(f"{parts[2]}Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 999\r\n\r\n--x\r\n")
        self._stalled.append(asyncio.create_task(self._stall(parts[number % len(parts)], number % 2 == 1)))
        return ""

    async def _stall(self, part: str, drips: bool) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                writer.write(part.encode())
                ended = asyncio.create_task(reader.read())
                while drips and not ended.done():
                    writer.write(b"a")
                    await asyncio.wait([ended], timeout=0.5)
                self._clean((await ended).decode("latin-1"))
        except ConnectionError:
            pass
        except TimeoutError:
            self.faults.append(f"who stalls after {part!r} is not dropped")
        writer.close()

    async def _leaves(self, number: int) -> str:
        """It closes in the middle of an upload, or asks and does not wait for the answer."""
        if number % 2:
            head = "POST /gradio_api/upload HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            await self._raw(f"{head}Content-Length: 99999\r\n\r\n--x\r\nContent-Disposition: form-data", wait=False)
            return ""
        (token,) = await self._upload("a.png", SOME)
        session = f"{random.getrandbits(64):x}"
        question = {"data": [{"path": token}], "fn_index": 0, "session_hash": session}
        await self._http.post("/gradio_api/queue/join", json=question)
        if number % 4:
            await self._raw(
                f"GET /gradio_api/queue/data?session_hash={session} HTTP/1.1\r\nHost: a\r\n\r\n", wait=False
            )
        return ""

    async def _raw(self, text: str, wait: bool = True) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(text.encode())
        await writer.drain()
        answer = await reader.read() if wait else b""
        writer.close()
        return self._clean(answer.decode("latin-1"))


async def visit(visitors: Visitors, prefix: str, uploads: int, clients: int, memory: Callable[[], float]) -> None:
    """All visits; prints the figures that are known when they end."""
    classifier = resnet_v2.load(prefix)
    pictures = good_pictures(40)
    answers = [{a.name: a.probability for a in classifier.classify(data)} for _, data in pictures]
    todo = iter(range(uploads))
    after: dict[int, float] = {}
    begun = time.monotonic()

    async def client() -> None:
        for number in todo:
            if number % 5 == 4:
                await visitors.send_hostile(number // 5)
            else:
                which = number % len(pictures)
                await visitors.send_good(*pictures[which], answers[which])
            if number + 1 in (uploads // 5, uploads):
                after[number + 1] = memory()

    await asyncio.gather(*(client() for _ in range(clients)))
    took = time.monotonic() - begun
    sent = f"{visitors.good} good pictures and {visitors.hostile} hostile visits of {clients} clients"
    print(f"{sent}: {took:.0f} s, {60 * uploads / took:.0f} a minute")
    grown = ", ".join(f"{mb:.0f} MB after {count}" for count, mb in sorted(after.items()))
    print(f"resident memory of the server: {grown}")
    await visitors.send_good(*pictures[0], answers[0])
    await visitors.close()


def resident(pid: int) -> float:
    """The resident memory of a process in MB; 0 where the system has no /proc."""
    try:
        return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0]) / 1024
    except OSError:
        return 0.0


def reachable_from_outside(port: int) -> bool:
    """Whether the page is listened for at another address of this machine than its loopback."""
    with contextlib.suppress(OSError):
        for address in {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}:
            with socket.socket() as probe:
                if not str(address).startswith("127.") and probe.connect_ex((address, port)) == 0:
                    return True
    return False


async def try_page(
    port: int, server: "subprocess.Popen[bytes]", folder: Path, arguments: argparse.Namespace
) -> list[str]:
    """Everything, with a server that starts: the faults."""
    visitors = Visitors(port, arguments.clients, [*HIDDEN, str(folder)])
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not await visitors.open():
        if server.poll() is not None or time.monotonic() > deadline:
            return [f"no page: {(folder / 'log').read_text()}"]
        await asyncio.sleep(0.2)
    questions = await visitors.questions()
    assert questions[0] == 1, questions
    await visit(visitors, arguments.prefix, arguments.uploads, arguments.clients, lambda: resident(server.pid))
    faults = visitors.faults
    if reachable_from_outside(port):
        faults.append("it listens beyond the loopback")
    return faults


def main() -> int:
    """Start the page, visit it, end it; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--uploads", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--prefix", default="", help="the checkpoint (default: the network that ships)")
    arguments = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="page-") as name:
        folder, temporary = Path(name), Path(name) / "temporary"
        temporary.mkdir()
        words = ["demo", "--prefix", arguments.prefix, "--port", port, "--upload-mb", UPLOAD_MB, "--seconds", SECONDS]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "resnet_v2", *map(str, words), "--requests-per-minute", "100000"],
                env=os.environ | {"TMPDIR": str(temporary)},
                stdout=log,
                stderr=log,
            )
        try:
            faults = asyncio.run(try_page(port, server, folder, arguments))
            kept = [path.name for path in temporary.rglob("*")]
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
        text = (folder / "log").read_text(errors="replace")
        left = [path.name for path in temporary.rglob("*")]
    print(f"files in the temporary folder: {len(kept)} while the page stood, {len(left)} after SIGTERM")
    faults += [f"left in the temporary folder: {kept + left}"] if kept or left else []
    faults += [f"the log: {text[-3000:]}"] if "Traceback" in text else []
    for fault in faults[:20]:
        print(f"FAULT: {fault[:3000]}")
    print(f"{len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
