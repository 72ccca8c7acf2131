"""The figures of a run for TensorBoard, written with its own writer (extra `tensorboard`)."""

import time
from pathlib import Path
from typing import Any

from resnet_v2.errors import ResnetError, install

# The tag of every figure of an event; its step is the epoch that the event tells, counted from 0.
TAGS = {
    "train": {
        "loss": "loss/training",
        "train_accuracy": "accuracy/training",
        "learning_rate": "run/learning rate",
        "samples_per_second": "run/images per second",
        "data_wait": "run/share of time waiting for data",
    },
    "validation": {
        "loss": "loss/validation",
        "top1_error": "error/top-1 (%)",
        "top5_error": "error/top-5 (%)",
        "mean_average_precision": "precision/mean average (%)",
    },
}


class TensorBoardWriter:
    """Mirrors the events `train` and `validation` of a `RunLog` into a folder; a `Listener`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """Write the figures of one event; they are on the disk when this returns."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        tags = TAGS.get(kind, {})
        found = [Summary.Value(tag=tag, simple_value=values[name]) for name, tag in tags.items() if name in values]
        if found:
            event = Event(wall_time=time.time(), step=values["epoch"], summary=Summary(value=found))
            self._writer.add_event(event)
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def open_writer(prefix: str, append: bool) -> TensorBoardWriter:
    """A writer into the folder PREFIX.tensorboard; a run that starts anew replaces what is there.

    Raises ResnetError when TensorBoard is not installed.
    """
    try:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        raise ResnetError(
            f"`tensorboard` needs the package tensorboard; install it with {install('tensorboard')}."
        ) from None
    folder = Path(f"{prefix}.tensorboard")
    if not append:
        for path in folder.glob("events.out.tfevents.*"):
            path.unlink()
    return TensorBoardWriter(EventFileWriter(str(folder)))
