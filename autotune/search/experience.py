"""What earlier jobs measured on the same hardware, as a calibration of forecasts.

It is worked out anew from the record each time: a forecast that has improved meets its own residuals.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from autotune.forecast.calibration import RESIDENT_BLUR_BYTES, Calibration, Observation
from autotune.forecast.forecast import forecast
from autotune.hardware.inventory import Gpu, Inventory, NodeGroup
from autotune.jobs import Job
from autotune.models.shape import ModelShape
from autotune.search.cost_model import Knowledge
from autotune.search.problem import Problem
from autotune.search.reuse import Known
from autotune.storage.repository import Repository
from search_spaces.columns import Columns
from trials.contract.config import TrainingConfig
from trials.contract.constants import PROTOCOL_VERSION

MOST = 200
"""Measurements that are looked at, the latest: what a posterior takes in without a pause."""


def calibration_on(group: NodeGroup, repository: Repository, besides: Job | None = None) -> Calibration:
    """What probes on such devices teach, but for those of one job. Raises StorageUnavailable."""
    return Calibration(tuple(_observations(group, repository, besides)))


def earlier_measurements(job: Job, group: NodeGroup, repository: Repository) -> Calibration:
    """What other jobs on such devices teach a job, which may not want to know it (`fresh`)."""
    return Calibration() if job.spec.fresh else calibration_on(group, repository, besides=job)


def knowledge_of(
    job: Job, problem: Problem, repository: Repository, known: Mapping[TrainingConfig, Known]
) -> Knowledge:
    """What a job's sampler knows before the first probe; what is taken over as trials is not told twice."""
    spec = job.spec
    earlier = earlier_measurements(job, problem.group, repository)
    return Knowledge(
        calibration=Calibration(
            [
                seen
                for seen in earlier.observations
                if (seen.model, seen.world_size) != (spec.model.digest, spec.world_size)
                or seen.config not in known
            ]
        ),
        model=spec.model.digest,
        world_size=spec.world_size,
        blur_bytes=RESIDENT_BLUR_BYTES if problem.group.gpu.kind == "cpu" else 0,
    )


def _observations(group: NodeGroup, repository: Repository, besides: Job | None) -> Iterator[Observation]:
    wanted = _without_memory(group.gpu)
    for job, measurement in repository.measured_on(group.gpu.name, MOST):
        if besides is not None and job.id == besides.id:
            continue
        spec, own = job.spec, Inventory.from_dict(job.spec.inventory).group
        versions = measurement.result.versions
        if _without_memory(own.gpu) != wanted or versions is None or versions.protocol != PROTOCOL_VERSION:
            continue
        observation = Observation.of(
            spec.model.digest,
            spec.world_size,
            measurement.config,
            measurement.result,
            forecast(
                ModelShape.from_dict(spec.shape), own, spec.world_size, Columns.of([measurement.config])
            ),
        )
        if observation is not None:
            yield observation


def _without_memory(gpu: Gpu) -> Gpu:
    """The device but for how much memory it has, which on a CPU depends on the number of ranks."""
    return replace(gpu, memory_bytes=1, source="")
