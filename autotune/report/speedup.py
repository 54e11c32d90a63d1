"""A speed-up over the baseline, in words that promise no more than its interval does."""

from trials.contract.messages import Estimate


def against_baseline(gain: Estimate) -> str:
    """Such as `1.45× the baseline (95 % interval 1.44 to 1.47)`."""
    if gain.low > 1:
        return f"{gain.median:.2f}× the baseline (95 % interval {gain.low:.2f} to {gain.high:.2f})"
    return (
        f"not surely faster than the baseline ({gain.median:.2f}×, could be {gain.low:.2f}× to "
        f"{gain.high:.2f}×)"
    )
