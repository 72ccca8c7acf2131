"""CUDA graphs: a training step is recorded once and played from then on, so that no kernel waits for Python.

See https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. What is played is what was recorded: the same
kernels at the same addresses, and so the same bits.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from resnet_v2.console import say

# Steps that are made as ever before one is recorded: they load kernels, and make what the optimiser remembers.
STEPS_BEFORE = 2

Work = Callable[[Tensor, Tensor, float], Tensor]


class Recorder(Protocol):
    """Records work on the device, and plays it."""

    def record(self, work: Callable[[], None]) -> None:
        """Record the work without doing it."""

    def play(self) -> None:
        """Do the work."""

    def forget(self) -> None:
        """Clear up after a recording that failed."""


class CudaRecorder:
    """torch's CUDA graph, recorded on the current stream; other threads may use the GPU meanwhile."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], None]) -> None:
        """Record the work without doing it; what it allocates stays its own."""
        stream = torch.cuda.current_stream()
        with torch.cuda.graph(self._graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            work()

    def play(self) -> None:
        """Do the work."""
        self._graph.replay()

    def forget(self) -> None:
        """Clear up after a recording that failed: torch's allocator would else take it for one that goes on.

        It would then keep the memory of every batch. The function has had two names, and no public one.
        """
        names = ("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool")
        end = next((getattr(torch._C, name) for name in names if hasattr(torch._C, name)), None)
        if end is not None:
            with contextlib.suppress(RuntimeError):
                end(torch.cuda.current_device(), self._pool)


class Graph:
    """Makes steps of one batch size by playing a recorded one; others, such as an epoch's last, are made as ever.

    What cannot be recorded is made as ever too, after a sentence that says why.
    """

    def __init__(self, batch_size: int, recorder: Callable[[], Recorder] = CudaRecorder) -> None:
        self._batch_size, self._make_recorder = batch_size, recorder
        self._recorder: Recorder | None = None
        self._steps_made, self._given_up = 0, False
        self._inputs: tuple[Tensor, Tensor] | None = None
        self._result = torch.empty(0)
        self.leaves: Sequence[Tensor] = ()
        """Tensors whose gradients a step makes; what comes after a played step finds those that it made."""
        self._gradients: list[Tensor | None] = []

    def __call__(self, work: Work, images: Tensor, labels: Tensor, share: float) -> Tensor:
        """What `work(images, labels, share)` returns; `share` is always the same for a full batch."""
        if self._given_up or len(images) != self._batch_size:
            return work(images, labels, share)
        if self._inputs is None or self._inputs[0].shape != images.shape:  # the size of images may change: record again
            self._recorder, self._steps_made = None, 0
            self._inputs = torch.empty_like(images), torch.empty_like(labels)
        if self._recorder is None and self._steps_made < STEPS_BEFORE:
            self._steps_made += 1
            return work(images, labels, share)
        for own, given in zip(self._inputs, (images, labels), strict=True):
            own.copy_(given)
        if self._recorder is None and not self._record(work, share):
            return work(images, labels, share)
        assert self._recorder is not None
        self._recorder.play()
        # Playing runs no Python: after a step made as ever the gradients would still be that one's.
        for leaf, gradient in zip(self.leaves, self._gradients, strict=True):
            leaf.grad = gradient
        return self._result.clone()  # the next step overwrites it

    def _record(self, work: Work, share: float) -> bool:
        assert self._inputs is not None
        images, labels = self._inputs
        recorder = self._make_recorder()

        def recorded() -> None:
            self._result = work(images, labels, share)

        try:
            recorder.record(recorded)
        except RuntimeError as error:
            recorder.forget()
            # The end of a failed recording fails too, and hides why.
            reason = str(error.__context__ or error).strip().splitlines()[0]
            say(f"the training step cannot be recorded as a CUDA graph ({reason}); it runs as ever")
            self._given_up = True
            return False
        self._recorder = recorder
        self._gradients = [leaf.grad for leaf in self.leaves]
        return True
