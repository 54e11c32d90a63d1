"""The ceiling that would do, for those under whose ceiling nothing fits."""

import math

from autotune.hardware.sizes import MIB

FORECAST_MARGIN = 0.25
"""What is added to a forecast peak. One-sided, since a ceiling that is quoted has to work: on CPU alone,
what lies outside tensors was measured at 384 to 476 MiB for one and the same model."""
PEAK_MARGIN = 0.05
"""What is added to a measured peak, for it differs a little from probe to probe."""


def enough_for(peak_bytes: float, headroom: float, margin: float) -> int:
    """A ceiling under which a peak that is larger by `margin` still fits, in whole MiB."""
    return math.ceil(peak_bytes * (1 + margin) / (1 - headroom) / MIB) * MIB


def in_words(ceiling_bytes: int) -> str:
    """As `--ceiling` takes it, and exactly."""
    return f"{ceiling_bytes // MIB}MiB ({ceiling_bytes} bytes)"


def ways_out(ceiling_bytes: int, device_bytes: int) -> str:
    """What to do where a ceiling of at least `ceiling_bytes` is needed."""
    raised = "raise --ceiling, " if ceiling_bytes <= device_bytes else ""
    return f"{raised}add GPUs, or pick a smaller model"
