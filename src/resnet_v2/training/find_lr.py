"""A learning-rate range test: steps at growing rates until the loss goes up, and the rate that suits.

Smith, arXiv 1506.01186; as in Gugger's "How do you find a good learning rate" (2018) the loss is smoothed, and the rate
is a tenth of that at which it is lowest. The network that is trained here is thrown away.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from resnet_v2.console import Progress
from resnet_v2.data.record_set import Records
from resnet_v2.errors import ResnetError
from resnet_v2.logs.layout import drawing
from resnet_v2.training.epoch import Run, training_loader
from resnet_v2.training.feed import feed
from resnet_v2.training.interruption import Stopped
from resnet_v2.training.mixing import mixed
from resnet_v2.training.state import TrainState

STEPS = 200
LOWEST, HIGHEST = 1e-5, 10.0
KEPT = 0.95  # of the average of the losses before, from step to step
TOO_MUCH = 2.0  # times the lowest loss so far: the run diverges
FIRST_STEPS = 20  # at rates that change nothing yet
FALLEN = 0.98  # times the loss at the beginning, or more: it has not fallen
SHARE = 0.1  # of the rate at which the loss is lowest


class Tried(NamedTuple):
    """A step: its learning rate, and the smoothed mean loss behind it."""

    learning_rate: float
    loss: float


def find_learning_rate(run: Run, state: TrainState, reader: Records, say: Callable[[str], object]) -> None:
    """Make the test on all ranks, say what it found and draw it as PREFIX-find-lr.png.

    Raises ResnetError where no rate suits.
    """
    tried = _try(run, state, reader)
    best = suggested(tried)
    path = Path(f"{run.plan.prefix}-find-lr.png")
    if run.ranks.main:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(tried, best, path)
    say(
        f"learning rate {best:.2g} suits: a tenth of {best / SHARE:.2g}, at which the loss was lowest in {len(tried)} "
        f"steps from {LOWEST:g} up; {path} shows it, and nothing else was written; train with `lr` {best:.2g}"
    )


def _try(run: Run, state: TrainState, reader: Records) -> list[Tried]:
    """The steps at growing rates, until the loss is far above its lowest, or no number."""
    state.trainer.model.train()
    average, lowest, tried = 0.0, math.inf, list[Tried]()
    with Progress("find a learning rate", STEPS, "steps", shown=run.ranks.main) as progress:
        for number, loss in enumerate(_losses(run, state, reader)):
            if not math.isfinite(loss):
                break
            average = KEPT * average + (1 - KEPT) * loss
            smooth = average / (1 - KEPT ** (number + 1))
            tried.append(Tried(_rate(number), smooth))
            lowest = min(lowest, smooth)
            progress.update(1, f"rate {_rate(number):.1e}, loss {smooth:.3f}")
            if smooth > TOO_MUCH * lowest:
                break
    return tried


def _rate(number: int) -> float:
    return LOWEST * float((HIGHEST / LOWEST) ** (number / (STEPS - 1)))


def _losses(run: Run, state: TrainState, reader: Records) -> Iterator[float]:
    """The mean loss of each step, over all ranks, in as many epochs as it takes."""
    number = 0
    for state.epoch in itertools.count():
        loader = training_loader(run, state, reader)
        for place, fed in enumerate(feed(iter(loader), run.device)):
            images, labels = mixed(run.plan.config, run.plan.labels, state.epoch, fed)
            count = loader.images_of(place)
            result = state.trainer.step(images, labels, count, _rate(number))
            (loss,) = run.ranks.total([float(result[0])])
            if run.stopping():
                said = "stopped while it was looking for a learning rate; nothing was written"
                raise Stopped(run.interruption.received or 0, said if run.ranks.main else "")
            yield loss / count
            number += 1
            if number == STEPS:
                return


def suggested(tried: list[Tried]) -> float:
    """A tenth of the rate at which the loss is lowest; a ResnetError where it never falls.

    The first steps only tell where it begins.
    """
    begin, later = tried[:FIRST_STEPS], tried[FIRST_STEPS:]
    lowest = min(later, key=lambda one: one.loss, default=None)
    if lowest is None or lowest.loss > FALLEN * begin[-1].loss:
        raise ResnetError(
            f"The loss falls at no learning rate from {LOWEST:g} up; look at the labels and at the settings, such as "
            "`amp` and `labels`."
        )
    return SHARE * lowest.learning_rate


def draw(tried: list[Tried], best: float, out: Path) -> None:
    """The loss over the learning rate, as a picture."""
    with drawing(out) as axes:
        axes.semilogx([one.learning_rate for one in tried], [one.loss for one in tried], linewidth=2)
        axes.axvline(best, color="C1", linestyle="--", label=f"suggested: {best:.2g}")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss, smoothed")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
