"""Packages that only some commands need. No torch."""

import importlib
from typing import Any

from resnet_v2.errors import ResnetError, install


def package(name: str, extra: str) -> Any:
    """Import a package; a ResnetError names the extra of resnet-v2 that brings it when it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ResnetError(f"{name} is not installed; install it with {install(extra)}.") from None
