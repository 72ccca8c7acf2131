"""ResNet-v2 with PyTorch, on the files and with the commands of MXNet's 2016 reproduction.

>>> import resnet_v2
>>> digits = resnet_v2.load("model/resnet-digits-14", 20)
>>> digits.classify("7.png", top=2)
[Answer(class_index=7, name='7', probability=0.99...), Answer(class_index=9, ...)]
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_v2.errors import ResnetError
    from resnet_v2.inference.classifier import Classifier, load
    from resnet_v2.inference.fitting import fit
    from resnet_v2.inference.predict import Answer
    from resnet_v2.inference.results import Answers, Results
    from resnet_v2.networks.resnet import resnet

__version__ = "0.1.0"
__all__ = ["Answer", "Answers", "Classifier", "ResnetError", "Results", "__version__", "fit", "load", "resnet"]

# Where the names are; they are imported when they are first used, because PyTorch takes a second to import.
_HOMES = {
    "Answer": "resnet_v2.inference.predict",
    "Answers": "resnet_v2.inference.results",
    "Classifier": "resnet_v2.inference.classifier",
    "ResnetError": "resnet_v2.errors",
    "Results": "resnet_v2.inference.results",
    "fit": "resnet_v2.inference.fitting",
    "load": "resnet_v2.inference.classifier",
    "resnet": "resnet_v2.networks.resnet",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'resnet_v2' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
