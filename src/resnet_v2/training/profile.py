"""`profile`: a trace of ten training steps for chrome://tracing or Perfetto."""

from pathlib import Path
from types import TracebackType

import torch

STEPS_BEFORE, STEPS = 5, 10


class Profiler:
    """While open and wanted, records steps 6 to 15 of the process and writes PREFIX-trace.json."""

    def __init__(self, prefix: str, wanted: bool) -> None:
        self.path = Path(f"{prefix}-trace.json")
        self._profile: torch.profiler.profile | None = None
        if wanted:
            activities = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            when = torch.profiler.schedule(wait=STEPS_BEFORE - 1, warmup=1, active=STEPS, repeat=1)
            self._profile = torch.profiler.profile(
                activities=activities, schedule=when, on_trace_ready=self._write, profile_memory=True
            )

    def _write(self, profile: torch.profiler.profile) -> None:
        profile.export_chrome_trace(str(self.path))
        print(f"trace of {STEPS} steps: {self.path}")

    def __enter__(self) -> "Profiler":
        if self._profile is not None:
            self._profile.start()
        return self

    def step(self) -> None:
        """Tell that a training step is over."""
        if self._profile is not None:
            self._profile.step()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profile is not None:
            self._profile.stop()
