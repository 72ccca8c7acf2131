"""ResNet-v2 with PyTorch, on the files and with the commands of MXNet's 2016 reproduction."""

__version__ = "0.1.0"
