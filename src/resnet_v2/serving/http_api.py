"""Requests -> answers of `resnet-v2 serve`: which addresses there are, and what each says of what is wrong."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, BinaryIO, TypeAlias

import cv2
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from resnet_v2 import __version__
from resnet_v2.config.serving import ServeConfig
from resnet_v2.data.claims import claimed_size
from resnet_v2.data.jpeg import Image
from resnet_v2.errors import ResnetError
from resnet_v2.inference.output import as_json
from resnet_v2.inference.pictures import prepare, too_small
from resnet_v2.inference.places import STANDARD_INPUT
from resnet_v2.inference.predict import Prediction, Predictor
from resnet_v2.machine import processors
from resnet_v2.packing.survey import SMALLEST_SIDE
from resnet_v2.serving import api_page
from resnet_v2.serving.batching import Batcher, batch_sizes
from resnet_v2.serving.forms import Limit, Refused, file_of_body, files_of_form
from resnet_v2.serving.metrics import Measured, Metrics

Files: TypeAlias = Sequence[tuple[str, BinaryIO]]
Top: TypeAlias = Annotated[int, Query(ge=1, le=10**6, description=api_page.TOP)]
RAW_TYPES = ("", "application/octet-stream")  # beside image/...
HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-store"}
IN_MEMORY_BYTES = 2**20  # of an upload: each write to a file waits for a thread, and most pictures are smaller
AGAIN_SECONDS = 1  # after which who was told to come again may do so
BUSY = "Too many pictures wait; send this again in a second."
NOT_HERE = "There is nothing here; POST pictures to /predict, GET /healthz, /metrics, /openapi.json or /docs."
WRONG_TYPE = "This is no picture by its type; send it in a form (curl -F image=@cat.jpg), or as image/jpeg."


class Answering:
    """The predictor behind its queue: files of pictures -> what `predict --json` says of them."""

    def __init__(self, predictor: Predictor, settings: ServeConfig) -> None:
        self._predictor, self._settings, self._waiting = predictor, settings, 0
        self.metrics = Metrics(lambda: self._waiting, batch_sizes(settings.batch_size))
        wait_seconds = settings.wait_ms / 1000
        self._batcher = Batcher(predictor.shares, settings.batch_size, wait_seconds, self.metrics.batch)
        self._readers = ThreadPoolExecutor(processors(), thread_name_prefix="pictures")

    @contextlib.asynccontextmanager
    async def ready(self, _: FastAPI) -> AsyncIterator[None]:
        """While the server stands."""
        cv2.setNumThreads(0)  # the threads are ours; OpenCV's own would only fight with them
        working = asyncio.create_task(self._batcher.run())
        yield
        working.cancel()
        self._readers.shutdown()

    def make_room(self, pictures: int) -> None:
        """Refuse so many more pictures where too many wait."""
        if self._waiting + pictures > self._settings.queue:
            raise Refused(503, BUSY)

    async def answers(self, files: Files, top: int) -> list[dict[str, Any]]:
        """What the network sees, for each picture in the order given; Refused where one is no picture."""
        self.make_room(len(files))
        self._waiting += len(files)
        asked = [self._answer(name, file, top) for name, file in files]
        try:
            async with asyncio.timeout(self._settings.seconds):
                found = await asyncio.gather(*asked, return_exceptions=True)
        except TimeoutError:
            raise Refused(503, f"No answer within {self._settings.seconds} seconds; send this again later.") from None
        finally:
            self._waiting -= len(files)
        answers = []
        for one in found:
            if isinstance(one, BaseException):
                raise one
            answers.append(one)
        return answers

    async def _answer(self, name: str, file: BinaryIO, top: int) -> dict[str, Any]:
        try:
            crop, told = await asyncio.get_running_loop().run_in_executor(self._readers, self._look, name, file)
        except ResnetError as error:
            raise Refused(422, str(error)) from None
        try:
            shares = await self._batcher.row(crop)
        except ResnetError as error:  # the network's, not the picture's
            raise Refused(500, str(error)) from None
        return as_json(Prediction(name, self._predictor.answers(shares, top))) | ({"warning": told} if told else {})

    def _look(self, name: str, file: BinaryIO) -> tuple[Image, str]:
        """What the network is to see of a picture, and what is to be said of it, if anything."""
        data = file.read()
        if not data:
            raise Refused(400, "The picture is empty; send the bytes of an image file.")
        crop = prepare(data, self._predictor.view, "The picture" if name == STANDARD_INPUT else name)
        told = too_small(claimed_size(data) or (SMALLEST_SIDE, SMALLEST_SIDE))
        return crop, told and f"{told}."


def application(predictor: Predictor, settings: ServeConfig) -> tuple[Measured, Metrics]:
    """The server of a network, and what it counts."""
    answering = Answering(predictor, settings)
    api = FastAPI(
        title="resnet-v2",
        version=__version__,
        description=f"{predictor.header.network}, {predictor.header.architecture.classes} classes.",
        docs_url=None,  # FastAPI's own pages load scripts from other servers
        redoc_url=None,
        redirect_slashes=False,
        lifespan=answering.ready,
    )

    @api.post(
        "/predict",
        summary="Name what is in pictures",
        response_class=JSONResponse,
        responses=api_page.PREDICT_RESPONSES,
        openapi_extra={"requestBody": api_page.PREDICT_BODY},
    )
    async def predict(request: Request, top: Top = 5) -> Response:
        answering.make_room(1)  # before anything is read
        files = await _files(request, settings)
        try:
            listed = await answering.answers(files, top)
        finally:
            for _, file in files:
                file.close()
        return Response(json.dumps(listed), media_type="application/json", headers=HEADERS)

    @api.head("/healthz", include_in_schema=False)
    @api.get("/healthz", summary="Whether the server answers", response_description="It does: which network it is.")
    async def healthz() -> dict[str, str | int]:
        header = predictor.header
        network: dict[str, str | int] = {
            "network": header.network,
            "epoch": header.epoch,
            "classes": header.architecture.classes,
        }
        return {"status": "ok", **network, "engine": predictor.engine.where}

    @api.get(
        "/metrics",
        summary="Counts for Prometheus",
        response_description="Requests, errors, times, and pictures in a batch, as text.",
        response_class=PlainTextResponse,
    )
    async def metrics() -> Response:
        return Response(answering.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @api.get("/", include_in_schema=False)  # for those who open the address in a browser
    @api.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(api_page.html_of(api.openapi()), headers=HEADERS)

    _say_what_is_wrong(api)
    return Measured(api, answering.metrics), answering.metrics


async def _files(request: Request, settings: ServeConfig) -> Files:
    """The pictures of a request, with their names: those of the form's files, or `-` for a body that is a picture."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(settings.seconds):
            if kind == "multipart/form-data":
                files = await files_of_form(request, Limit(settings.upload_mb, settings.queue, IN_MEMORY_BYTES))
                return [(file.filename or STANDARD_INPUT, file.file) for file in files]
            if kind in RAW_TYPES or kind.startswith("image/"):
                return [(STANDARD_INPUT, await file_of_body(request, Limit(settings.upload_mb, 1, IN_MEMORY_BYTES)))]
    except TimeoutError:
        raise Refused(408, f"This upload took longer than {settings.seconds} seconds; send a smaller one.") from None
    raise Refused(415, WRONG_TYPE)


def _say_what_is_wrong(api: FastAPI) -> None:
    """Each error is one sentence, as `detail`."""

    @api.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        headers = {503: {"retry-after": str(AGAIN_SECONDS)}, 408: {"connection": "close"}}.get(error.status)
        return _say(error.status, str(error), headers)

    @api.exception_handler(RequestValidationError)
    async def no_number(_: Request, error: RequestValidationError) -> Response:
        return _say(422, "`top` must be a whole number from 1 to 1000000.")

    @api.exception_handler(HTTPException)
    async def no_address(request: Request, error: HTTPException) -> Response:
        allowed = (error.headers or {}).get("Allow", "")
        where = "" if allowed == "POST" else "; POST pictures to /predict"
        sentence = f"{request.url.path} takes {allowed} alone{where}." if error.status_code == 405 else NOT_HERE
        return _say(error.status_code, sentence, error.headers)

    @api.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=400)

    @api.exception_handler(Exception)
    async def fault(_: Request, error: Exception) -> Response:
        return _say(500, "The server has a fault; its log tells more.")


def _say(status: int, sentence: str, headers: Any = None) -> Response:
    return JSONResponse({"detail": sentence}, status, {**HEADERS, **(headers or {})})
