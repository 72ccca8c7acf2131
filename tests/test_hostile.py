"""Clients that mean no good, on real connections: others are answered meanwhile, and the log has no traceback."""

import asyncio
import json
import logging
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from conftest import picture
from resnet_v2.config.serving import ServeConfig
from resnet_v2.data.jpeg import encode
from resnet_v2.inference.predict import Predictor
from resnet_v2.serving.listening import listen

pytest.importorskip("fastapi", reason="missing fastapi: pip install -e '.[dev]'")

import uvicorn

from resnet_v2.serving import connections
from resnet_v2.serving.http_api import application

GOOD = encode(picture(7, 50, 60), ".png", 3)
HEAD = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(GOOD)
OPEN = Path("/proc/self/fd")
Hostile = Callable[[int], Awaitable[None]]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """The network that ships."""
    return Predictor.open("", device="cpu")


def meet(predictor: Predictor, hostile: Hostile, wait_ms: int = 2) -> None:
    """Let a client do what it likes, with the port of a server; then another one must get its answer at once."""

    async def meeting() -> None:
        listening = listen("127.0.0.1", 0)
        port = listening.getsockname()[1]
        answers, _ = application(predictor, ServeConfig(wait_ms=wait_ms))
        server = uvicorn.Server(connections.configured(answers, 1))
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        assert await status_of(port, HEAD + GOOD) == 200
        await hostile(port)
        assert await status_of(port, HEAD + GOOD) == 200
        server.should_exit = True
        await serving

    asyncio.run(meeting())


async def answer_of(port: int, data: bytes) -> bytes:
    """All that comes back for some bytes; the client ends its side of the connection behind them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        return head + (await reader.readexactly(int(length[1])) if length else await reader.read())
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return b""
    finally:
        writer.close()


async def status_of(port: int, data: bytes) -> int:
    """The status of the answer to some bytes, 0 where there is none."""
    answer = await answer_of(port, data)
    return int(answer.split()[1]) if answer else 0


def told_nothing(capfd: pytest.CaptureFixture[str]) -> bool:
    """Whether the log is empty."""
    return capfd.readouterr().err == ""


@pytest.mark.parametrize("begun", [b"", b"POST /pre", HEAD, HEAD + GOOD[:9]], ids=["silent", "head", "body", "half"])
def test_who_opens_all_connections_and_leaves_them_keeps_nobody_out(
    predictor: Predictor, begun: bytes, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 8)

    async def hostile(port: int) -> None:
        opened = []
        for _ in range(30):
            opened.append(await asyncio.open_connection("127.0.0.1", port))
            opened[-1][1].write(begun)
            assert await status_of(port, HEAD + GOOD) == 200
        cut = sum(reader.at_eof() or reader.exception() is not None for reader, _ in opened)
        assert 20 <= cut <= 24  # the others stay
        assert not opened[-1][0].at_eof()
        for _, writer in opened:
            writer.close()

    meet(predictor, hostile)
    assert told_nothing(capfd)


def test_who_is_being_answered_is_not_cut(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 8)

    async def hostile(port: int) -> None:
        asked = [asyncio.create_task(status_of(port, HEAD + GOOD)) for _ in range(5)]  # wait 100 ms for others
        await asyncio.sleep(0.05)
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        assert await asyncio.gather(*asked) == [200] * 5
        for _, writer in opened:
            writer.close()

    meet(predictor, hostile, wait_ms=300)
    assert told_nothing(capfd)


def test_who_asked_lately_is_not_the_first_to_be_cut(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 8)

    async def hostile(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(6)]
        for _ in range(2):
            writer.write(b"HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).split()[1] == b"200"
            opened += [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            await asyncio.sleep(0.05)
        assert opened[0][0].at_eof() or opened[0][0].exception() is not None
        for _, each in opened:
            each.close()
        writer.close()

    meet(predictor, hostile)


def test_the_server_leaves_the_logs_of_other_libraries_alone() -> None:
    class Handler(logging.Handler):
        closed = False

        def close(self) -> None:
            self.closed = True
            super().close()

    handler = Handler()
    connections.configured(lambda *_: None, 1)  # type: ignore[arg-type]
    assert not handler.closed


def test_who_goes_in_the_middle_leaves_nothing(predictor: Predictor, capfd: pytest.CaptureFixture[str]) -> None:
    def go(port: int) -> None:
        for data in (HEAD + GOOD, HEAD + GOOD[:99], HEAD, b"POST"):
            for linger in (0, 1):
                with socket.create_connection(("127.0.0.1", port)) as client:
                    client.sendall(data)
                    if linger == 0:  # the connection is broken rather than ended
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def hostile(port: int) -> None:
        before = len(list(OPEN.iterdir())) if OPEN.exists() else 0
        for _ in range(10):
            await asyncio.to_thread(go, port)
            assert await status_of(port, HEAD + GOOD) == 200
        await asyncio.sleep(0.1)
        assert (len(list(OPEN.iterdir())) if OPEN.exists() else 0) <= before

    meet(predictor, hostile)
    assert told_nothing(capfd)


def test_heads_that_are_none(predictor: Predictor, capfd: pytest.CaptureFixture[str]) -> None:
    end = b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    post = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
    cases = [
        (400, b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X: " + bytes([97]) * 10**7),
        (400, b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 10**5),
        (400, b"\xff\xfe /predict" + end),
        (400, b"GET /\xff" + end),
        (400, post + b"Content-Length: -5\r\n\r\n"),
        (400, post + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n"),
        (413, post + b"Content-Length: " + b"9" * 20 + b"\r\n\r\n"),
        (404, b"GET /../../etc/passwd" + end),
        (404, b"GET /%2e%2e/%2e%2e/etc/passwd" + end),
        (404, b"GET //predict" + end),
        (404, b"GET /%ff%00" + end),
        (405, b"OPTIONS /predict" + end),
        (405, b"TRACE /healthz" + end),
        (405, b"FOO /predict" + end),
    ]

    async def hostile(port: int) -> None:
        for status, data in cases:
            found = await status_of(port, data)
            # Where the server ends the connection while much is still on its way, its words may be lost with it.
            assert found in ((status, 0) if len(data) > 10**5 else (status,)), data[:50]

    meet(predictor, hostile)
    assert told_nothing(capfd)


def test_names_of_files_are_words_and_nothing_else(predictor: Predictor, capfd: pytest.CaptureFixture[str]) -> None:
    def asked(name: bytes, data: bytes) -> bytes:
        part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="%b"\r\n\r\n' % name
        body = part + data + b"\r\n--x--\r\n"
        head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        return head + b"Content-Length: %d\r\n\r\n" % len(body) + body

    async def hostile(port: int) -> None:
        names = ["Ж猫.jpg", "../../../etc/passwd", "<script>.jpg", "\x1b[31m", "\0", "a\u202egpj.exe", "a" * 3000]
        for name in names:
            answer = await answer_of(port, asked(name.encode(), GOOD))
            assert json.loads(answer.partition(b"\r\n\r\n")[2])[0]["image"] == name
            answer = await answer_of(port, asked(name.encode(), b"none"))
            assert answer.split()[1] == b"422"
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["detail"].isprintable()
        assert await status_of(port, asked(b"\xff\xfe.jpg", GOOD)) in (200, 400)

    meet(predictor, hostile)
    assert told_nothing(capfd)
