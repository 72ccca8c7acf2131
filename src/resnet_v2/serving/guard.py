"""What stands between the net and the page: which requests there are, how many, how large and how slow they may be.

gradio answers far more than the page needs. What is not named here does not exist; uploads are taken here, and no path
of this machine is part of any request or answer.
"""

import asyncio
import contextlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from anyio.to_thread import run_sync
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from resnet_v2.config.serving import DemoConfig
from resnet_v2.errors import ResnetError
from resnet_v2.serving.forms import IN_MEMORY_BYTES, Limit, Refused, at_most, files_of_form
from resnet_v2.serving.sessions import CLOSE, Sessions
from resnet_v2.serving.uploads import PICTURES, Uploads

API = "/gradio_api"
# What the browser asks gradio for. The page's own pictures are part of its answers and have no address.
PAGE = re.compile(
    r"/|/config/?|/(assets|static|svelte)/.+|(/gradio_api)?/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json"
)
SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
QUESTION_BYTES = 16384
KEPT_SECONDS = 600
NAME_LETTERS = 200
CLIENTS = 10000  # whose haste is remembered
CLOSED = b"data: {" + CLOSE + b"}\n\n"
STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
# A dropped file is shown as an image and never as a page of ours, whatever it holds.
AS_A_FILE = {"content-disposition": "attachment", "content-security-policy": "sandbox; default-src 'none'"}


class Guard:
    """The page as the net sees it: gradio's application behind the limits of the settings.

    `questions` gives the number of inputs of each function that may be asked; `queue` is gradio's.
    """

    def __init__(
        self,
        page: ASGIApp,
        uploads: Uploads,
        limits: DemoConfig,
        questions: Mapping[int, int],
        queue: Any,
    ) -> None:
        self._page, self._uploads, self._limits, self._questions = page, uploads, limits, questions
        self._haste, self._sessions = Haste(limits.requests_per_minute), Sessions(queue, limits.seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or say why not."""
        if scope["type"] != "http":
            await self._page(scope, receive, send)
            return
        started = ""

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = dict(message["headers"]).get(b"content-type", b"-").decode("latin-1")
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        request = Request(scope, receive)
        try:
            async with asyncio.timeout(self._limits.seconds) as limit:
                await self._serve(request, receive, answer, limit)
        except Refused as refused:
            await _say(request, refused.status, str(refused))(scope, receive, answer)
        except ClientDisconnect:
            pass
        except TimeoutError:
            sentence = f"This took longer than {self._limits.seconds} seconds; try again later."
            if not started:
                await _say(request, 408, sentence)(scope, receive, answer)
            elif started.startswith("text/event-stream"):
                event = json.dumps({"msg": "unexpected_error", "message": sentence, "success": False})
                body = f"data: {event}\n\n".encode() + CLOSED
                await answer({"type": "http.response.body", "body": body})

    async def _serve(self, request: Request, receive: Receive, send: Send, limit: asyncio.Timeout) -> None:
        method, path = request.method, request.url.path
        match method, path.removeprefix(API) if path.startswith(API) else "":
            case "POST", "/upload":
                response = await self._upload(request)
            case "POST", "/queue/join":
                self._hurry(request)
                await self._ask(request, send)
                return
            case "GET", "/queue/data":
                await self._answers(request, receive, send, limit)
                return
            case "GET", file if file.startswith("/file="):
                response = await self._file(file.removeprefix("/file="))
            case _ if method in ("GET", "HEAD") and PAGE.fullmatch(path):
                await self._page(request.scope, receive, send)
                return
            case _:
                raise Refused(404, "There is nothing here.")
        await response(request.scope, receive, send)

    def _hurry(self, request: Request) -> None:
        wait = self._haste.wait(_client(request))
        if wait:
            most = self._limits.requests_per_minute
            raise Refused(429, f"More than {most} requests in a minute; try again in {wait:.0f} seconds.")

    async def _upload(self, request: Request) -> Response:
        """Take the pictures of a form; the answer is the list of their tokens."""
        self._hurry(request)
        files = await files_of_form(request, Limit(self._limits.upload_mb, PICTURES))
        return JSONResponse([self._keep(file, _client(request)) for file in files])

    def _keep(self, file: UploadFile, owner: str) -> str:
        token = self._uploads.add(file.file, owner, (file.filename or "")[:NAME_LETTERS])
        asyncio.get_running_loop().call_later(KEPT_SECONDS, self._uploads.remove, token)
        return token

    async def _file(self, token: str) -> Response:
        try:
            await run_sync(self._uploads.look, token, 0, 0)
        except ResnetError as error:
            raise Refused(404, str(error)) from None

        async def pieces() -> AsyncGenerator[bytes]:  # so that no reader, however slow, holds a whole picture here
            start = 0
            with contextlib.suppress(ResnetError):  # it has gone meanwhile
                while piece := await run_sync(self._uploads.look, token, start, IN_MEMORY_BYTES):
                    yield piece
                    start += len(piece)

        return StreamingResponse(pieces(), media_type="application/octet-stream", headers=AS_A_FILE)

    async def _ask(self, request: Request, send: Send) -> None:
        session, question = await self._question(request)

        async def answer(message: Message) -> None:
            await self._sessions.settled(session)
            await send(message)

        async with self._sessions.asking(session):
            await self._page(request.scope, _whole(question), answer)

    async def _question(self, request: Request) -> tuple[str, bytes]:
        """A session and its question to gradio, written anew from those of its parts that the page uses."""
        body = b"".join(
            [chunk async for chunk in at_most(request, QUESTION_BYTES, Refused(413, "This question is too long."))]
        )
        try:
            asked = json.loads(body)
            index, session, data = asked["fn_index"], asked["session_hash"], asked["data"]
            known = type(index) is int and index in self._questions and SESSION.fullmatch(session)
            if not known or type(data) is not list or len(data) != self._questions[index]:
                raise ValueError
            values = [_value(value) for value in data]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Refused(400, "This is no question that the page asks.") from None
        return session, json.dumps({"data": values, "fn_index": index, "session_hash": session}).encode()

    async def _answers(self, request: Request, receive: Receive, send: Send, limit: asyncio.Timeout) -> None:
        """The stream of the answers to all that a session asks, one of gradio's streams after the other."""
        session = request.query_params.get("session_hash", "")
        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})

        async def answer(message: Message) -> None:
            body = message.get("body", b"")
            if body and CLOSE not in body:
                await send({"type": "http.response.body", "body": body, "more_body": True})

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        loop = asyncio.get_running_loop()
        with self._sessions.hearing(session) as asked:
            while asked:
                limit.reschedule(loop.time() + self._limits.seconds)
                await self._page(dict(request.scope), receive, answer)
                limit.reschedule(None)
                asked = self._sessions.has_asked(session) or await self._sessions.asks_again(session, gone)
        # Without these words a stream counts as open in the browser, for ever.
        await send({"type": "http.response.body", "body": CLOSED})


class Haste:
    """How fast clients ask: each has `most` requests in hand, which come back within a minute."""

    def __init__(self, most: int, now: Callable[[], float] = time.monotonic) -> None:
        self._most, self._now = most, now
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Count a request: the seconds until it may be sent again, 0 when it may be answered now."""
        now = self._now()
        left, at = self._left.pop(client, (float(self._most), now))
        left = min(self._most, left + (now - at) * self._most / 60)
        self._left[client] = (left - 1 if left >= 1 else left, now)
        while len(self._left) > CLIENTS:
            self._left.popitem(last=False)
        return 0.0 if left >= 1 else max(1.0, (1 - left) * 60 / self._most)


def _whole(body: bytes) -> Receive:
    """What an application receives when the body of its request has come already."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await asyncio.Future()

    return receive


def _value(value: object) -> str | int | list[str] | None:
    """What a function is given for a part of a question: the token of a picture or of several, the index of a class,
    nothing.
    """
    if isinstance(value, dict):
        return _token(value)
    if isinstance(value, list) and len(value) <= PICTURES and all(isinstance(one, dict) for one in value):
        return [_token(one) for one in value]
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ValueError


def _token(picture: Mapping[object, object]) -> str:
    token = picture.get("path")
    return token if isinstance(token, str) else ""


def _client(request: Request) -> str:
    return request.client.host if request.client else ""


def _say(request: Request, status: int, sentence: str) -> Response:
    # gradio's page shows the text of a refused upload as it is, and looks for `detail` in what it asks.
    headers = {"connection": "close"} if status == 408 else None
    if request.url.path == f"{API}/upload":
        return PlainTextResponse(sentence, status, headers)
    return JSONResponse({"detail": sentence}, status, headers)
