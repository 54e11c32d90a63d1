"""A recommendation as what exports are written from."""

from collections.abc import Sequence

from autotune.execution.executor import Layout
from autotune.export import Target
from autotune.hardware.sizes import format_bytes
from autotune.jobs import Job
from autotune.report.answer import Recommendation
from autotune.storage.records import Measurement


def target_of(
    job: Job, layout: Layout, recommendation: Recommendation, measurements: Sequence[Measurement]
) -> Target:
    """`measurements` are the job's; the recommended trial's tell the constants that it was measured with."""
    measured_with = [m.result.constants for m in measurements if m.trial_number == recommendation.trial]
    speed = recommendation.tokens_per_second
    return Target(
        config=recommendation.config,
        model_name=job.spec.model.name,
        world_size=job.spec.world_size,
        num_nodes=layout.num_nodes,
        gpus_per_node=layout.ranks_per_node,
        device=layout.device,
        constants=next(filter(None, measured_with)),
        layer_class=None,
        job_name=job.name,
        evidence=(
            f"{recommendation.evidence}: {speed.median:,.0f} tokens/s ({speed.low:,.0f} to "
            f"{speed.high:,.0f}), peak {format_bytes(recommendation.peak_bytes)} per rank"
        ),
    )
