"""From rows of our tables to the records that others see."""

from typing import Any, TypeVar

from autotune.errors import StorageUnavailable
from autotune.jobs import Job, JobSpec, JobStatus
from autotune.storage.owner import Owner
from autotune.storage.records import Measurement
from autotune.storage.tables import JobRow, MeasurementRow
from trials.contract.config import TrainingConfig
from trials.contract.message import ContractError, Message
from trials.contract.messages import ProbeResult

_M = TypeVar("_M", bound=Message)


def read_job(row: JobRow, driver: Owner | None) -> Job:
    return Job(
        id=row.id,
        spec=_read(JobSpec, row.spec),
        status=JobStatus(row.status),
        reason=row.reason,
        created_at=row.created_at,
        updated_at=row.updated_at,
        spent_s=row.spent_s,
        driver=None if driver is None else str(driver),
    )


def read_measurement(row: MeasurementRow) -> Measurement:
    return Measurement(
        job_id=row.job_id,
        trial_number=row.trial_number,
        repeat=row.repeat,
        key=row.key,
        config=_read(TrainingConfig, row.config),
        result=_read(ProbeResult, row.result),
        ceiling_bytes=row.ceiling_bytes,
        created_at=row.created_at,
        reused_from=row.reused_from,
    )


def read_owner(lease_owner: str) -> Owner:
    return _read(Owner, lease_owner)


def _read(kind: type[_M], data: dict[str, Any] | str) -> _M:
    try:
        return kind.parse(data)
    except ContractError as error:
        raise StorageUnavailable(
            f"a {kind.__name__} in the database is not as this autotune writes it ({error}); "
            "use the version of autotune that wrote it"
        ) from error
