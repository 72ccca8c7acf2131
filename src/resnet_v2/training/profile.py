"""`profile`: a trace of ten training steps for chrome://tracing or Perfetto."""

from pathlib import Path

import torch

STEPS_BEFORE, STEPS = 5, 10


def profiler(prefix: str) -> torch.profiler.profile:
    """While open, records steps 6 to 15 of the process, of which `step` tells that they are over, and writes
    PREFIX-trace.json.
    """
    path = Path(f"{prefix}-trace.json")

    def write(profile: torch.profiler.profile) -> None:
        profile.export_chrome_trace(str(path))
        print(f"trace of {STEPS} steps: {path}")

    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    when = torch.profiler.schedule(wait=STEPS_BEFORE - 1, warmup=1, active=STEPS, repeat=1)
    return torch.profiler.profile(activities=activities, schedule=when, on_trace_ready=write, profile_memory=True)
