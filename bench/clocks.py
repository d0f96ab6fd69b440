"""A GPU's clocks, as its driver tells them through NVML."""

from __future__ import annotations

import contextlib
from functools import cache
from typing import Any

LEAST = 0.75  # of the default SM clock: a sample below it is taken again
# What held the clock down, by NVML's bit; idleness and a clock that a person has set are no fault of the machine.
REASONS = {
    0x4: "the power cap",
    0x8: "a hardware slowdown",
    0x10: "another GPU's clock",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "the power brake",
}


@cache
def nvml_device() -> tuple[Any, Any] | None:
    """(pynvml, the handle of torch's first GPU); None where nvidia-ml-py is not installed or finds no driver."""
    try:
        import pynvml
        import torch
    except ModuleNotFoundError:
        return None
    try:
        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
    except pynvml.NVMLError:
        return None


class SmClock:
    """The SM clock beside its default; where NVML does not tell, no clock is called low."""

    def __init__(self) -> None:
        self._reasons = 0
        self._nvml = nvml_device()
        self.default_mhz = self._asked("nvmlDeviceGetDefaultApplicationsClock") or self._asked(
            "nvmlDeviceGetMaxClockInfo"
        )

    def _asked(self, function: str) -> int | None:
        if self._nvml is None:
            return None
        pynvml, handle = self._nvml
        try:
            return getattr(pynvml, function)(handle, pynvml.NVML_CLOCK_SM)
        except pynvml.NVMLError:
            return None

    def low(self) -> bool:
        """Whether the clock is now below LEAST of the default; what holds it down is noted."""
        now_mhz = self._asked("nvmlDeviceGetClockInfo") if self.default_mhz else None
        if self._nvml is None or self.default_mhz is None or now_mhz is None:
            return False
        pynvml, handle = self._nvml
        with contextlib.suppress(pynvml.NVMLError):
            self._reasons |= pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        return now_mhz < LEAST * self.default_mhz

    def taken_reasons(self) -> int:
        """NVML's bits of all that has held the clock down while it was looked at, since this was last asked."""
        taken, self._reasons = self._reasons, 0
        return taken


@cache
def sm_clock() -> SmClock:
    """Of the first GPU: one for the process, so that the timer and the record speak of the same."""
    return SmClock()


def reasons(bits: int) -> list[str]:
    """What NVML's bits say, in words.

    >>> reasons(0x1 | 0x4 | 0x40)
    ['the power cap', 'heat (hardware)']
    """
    return [words for bit, words in REASONS.items() if bits & bit]
