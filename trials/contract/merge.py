"""From the reports of all ranks to the result of the probe."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from trials.contract.messages import PRECEDENCE, ProbeRequest, ProbeResult, RankReport
from trials.contract.outcome import VERDICTS
from trials.contract.statistics import throughput

T = TypeVar("T")


def merge(request: ProbeRequest, reports: Sequence[RankReport], seconds: float) -> ProbeResult:
    """The worst rank decides the outcome and the memory; times are already those of the slowest."""
    decisive = min(reports, key=lambda r: (PRECEDENCE.index(r.outcome), r.lost_peer, r.rank))
    measured = VERDICTS[decisive.outcome].has_speed and decisive.step_s
    peaks = [r.memory for r in sorted(reports, key=lambda r: r.rank) if r.memory is not None]
    return ProbeResult(
        probe_id=request.probe_id,
        outcome=decisive.outcome,
        phase=decisive.phase,
        rank=None if measured else decisive.rank,
        reason=decisive.reason,
        detail=decisive.detail,
        tokens_per_second=(
            throughput(request.config.tokens_per_step(request.world_size), decisive.step_s)
            if measured
            else None
        ),
        step_s=decisive.step_s,
        peak_bytes=max((peak.device_bytes for peak in peaks), default=None),
        memory=tuple(peaks),
        losses=decisive.losses,
        gradient_norms=decisive.gradient_norms,
        num_parameters=_first(r.num_parameters for r in reports),
        constants=_first(r.constants for r in reports),
        versions=_first(r.versions for r in reports),
        phase_s=decisive.phase_s,
        throttled=_first(r.throttled for r in reports),
        output=decisive.output,
        seconds=seconds,
    )


def _first(values: Iterable[T | None]) -> T | None:
    return next((value for value in values if value is not None), None)
