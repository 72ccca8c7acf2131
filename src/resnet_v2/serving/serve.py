"""`resnet-v2 serve`: a network that answers over HTTP until it is ended."""

import numpy as np

from resnet_v2.config.serving import ServeConfig
from resnet_v2.console import say
from resnet_v2.inference.predict import Predictor
from resnet_v2.interchange.optional import package
from resnet_v2.serving.batching import batch_sizes
from resnet_v2.serving.listening import address, listen


def serve(settings: ServeConfig) -> None:
    """Answer until a signal ends it; pictures that wait then are answered before.

    Raises ResnetError when packages or the network are missing, and for an address that cannot be listened at.
    """
    for name in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        package(name, "serve")
    from resnet_v2.serving import connections, http_api

    listening = listen(settings.host, settings.port)  # before anything is loaded
    predictor = Predictor.open(
        settings.prefix, settings.epoch, settings.engine, settings.device, settings.gpus, settings.precision
    )
    if settings.synset is not None:
        predictor.header = predictor.header.named(settings.synset)
    warm_up(predictor, settings.batch_size)
    application, metrics = http_api.application(predictor, settings)
    where = address(settings.host, settings.port)
    say(f"{predictor.header.network} answers at {where}/predict, told of at {where}/docs (Ctrl-C ends it)")
    try:
        connections.run(application, listening, settings.seconds)
    finally:
        say(f"ended after {metrics.requests} requests, {metrics.errors} of them refused")


def warm_up(predictor: Predictor, batch_size: int) -> None:
    """Let the engine prepare itself for every size of a batch, so that the first visitors need not wait for it."""
    for size in batch_sizes(batch_size):
        predictor.shares(np.zeros((size, predictor.view.crop, predictor.view.crop, 3), np.uint8))
