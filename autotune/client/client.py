"""`Client`: jobs on a server, with the words and defaults of the command line."""

import io
import re
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx2

from autotune import arguments
from autotune.arguments import Choices
from autotune.client.connection import PAUSES_S, Connection, printable
from autotune.client.events import ENDED, JobEvent, follow
from autotune.errors import BadInput, MachineFault
from autotune.jobs import JobStatus
from autotune.report.answer import Answer
from autotune.report.explanation import JobExplanation
from autotune.report.job_view import JobView
from autotune.report.plan import Plan
from autotune.report.trials import TrialRow
from autotune.storage.records import JobSummary
from search_spaces.columns import Value
from trials.contract.config import TrainingConfig
from trials.contract.message import ContractError, Message

TIMEOUT_S = 60.0
"""For a forecast of the largest space, several times over."""
WAITING_S = 1.0
"""Between two looks at a job that is waited for."""
MOST_EXPORT_BYTES = 16 << 20
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

M = TypeVar("M", bound=Message)


class _JobPage(Message):
    jobs: tuple[JobSummary, ...]
    next: str | None


class _TrialPage(Message):
    trials: tuple[TrialRow, ...]
    next: int | None


class Client:
    """A server that `autotune serve` runs.

    What it refuses is raised as here: BadInput, NoSuchJob, NothingMeasured and so on, UserError where a token
    is missing or allows too little; MachineFault where it cannot be reached. What does no harm twice is asked
    again when the connection was lost.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        pauses_s: Sequence[float] = PAUSES_S,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """`pauses_s`: before each further try where a connection was lost. Raises BadInput for no address."""
        self._connection = Connection(url, token, timeout_s=timeout_s, pauses_s=pauses_s, transport=transport)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def plan(
        self,
        model: str | Mapping[str, Any],
        gpus: str | Mapping[str, Any] = "auto",
        *,
        ceiling: str | int | None = None,
        headroom: float | str = 0.05,
        space: str | Mapping[str, Any] | None = None,
        set: Mapping[str, Choices] | None = None,
        global_batch_size: int | None = None,
        global_batch_tolerance: float | str = 0.10,
        top: int = 10,
        model_name: str | None = None,
    ) -> Plan:
        """Forecast every legal configuration and rank what fits, as `autotune.plan` does.

        `auto` are the devices that the server finds.
        """
        question = _question(
            model, gpus, ceiling, headroom, space, set, global_batch_size, global_batch_tolerance, model_name
        )
        return _parsed(Plan, self._connection.post("v1/plans", question | {"top": top}, may_repeat=True))

    def submit(
        self,
        model: str | Mapping[str, Any],
        gpus: str | Mapping[str, Any] = "auto",
        *,
        name: str | None = None,
        ceiling: str | int | None = None,
        headroom: float | str = 0.05,
        space: str | Mapping[str, Any] | None = None,
        set: Mapping[str, Choices] | None = None,
        baseline: Mapping[str, Value] | TrainingConfig | None = None,
        global_batch_size: int | None = None,
        global_batch_tolerance: float | str = 0.10,
        min_speed: float | str = 0.0,
        trials: int = 24,
        minutes: float | None = None,
        gpu_hours: float | None = None,
        sampler: str = "cost_model",
        stop_below: float | str = 0.01,
        seed: int = 0,
        probe_seconds: float = 10.0,
        repeats: int = 1,
        fresh: bool = False,
        executor: Literal["ray", "local"] | None = None,
        model_name: str | None = None,
        idempotency_key: str | None = None,
    ) -> JobView:
        """Hand a job to the server's workers; arguments as in `autotune.tune`.

        The same submission with the same `idempotency_key` gives the job that the first one made.
        """
        given = arguments.baseline(baseline)
        body = _question(
            model, gpus, ceiling, headroom, space, set, global_batch_size, global_batch_tolerance, model_name
        ) | {
            "name": name,
            "baseline": given and given.model_dump(mode="json", exclude_unset=True),
            "min_speed": arguments.share(min_speed, "min_speed"),
            "trials": trials,
            "minutes": minutes,
            "gpu_hours": gpu_hours,
            "sampler": sampler,
            "stop_below": arguments.share(stop_below, "stop_below"),
            "seed": seed,
            "probe_seconds": probe_seconds,
            "repeats": repeats,
            "fresh": fresh,
            "executor": executor,
        }
        key = str(uuid4()) if idempotency_key is None else printable(idempotency_key, "idempotency_key")
        headers = {"Idempotency-Key": key}
        return _parsed(JobView, self._connection.post("v1/jobs", body, may_repeat=True, headers=headers))

    def jobs(
        self, *, status: JobStatus | str | None = None, named: str = "", page: int = 50
    ) -> Iterator[JobSummary]:
        """Jobs, latest first, asked for page by page: those of a status, and with `named` in their names."""
        params: dict[str, str | int] = {"limit": page, "q": named}
        if status is not None:
            params["status"] = str(status)
        while True:
            found = _parsed(_JobPage, self._connection.get("v1/jobs", params))
            yield from found.jobs
            if found.next is None:
                return
            params["before"] = found.next

    def job(self, name: str) -> JobView:
        return _parsed(JobView, self._connection.get(_path(name)))

    def events(self, name: str, *, after: int = 0) -> Iterator[JobEvent]:
        """What happens to a job, as it happens, from its beginning or after the event of that id.

        Ends when the job has. A connection that is lost is made anew, and nothing is told twice.
        """
        return follow(self._connection, _path(name, "events"), after, lambda: self.job(name).status)

    def wait(self, name: str, *, timeout_s: float | None = None) -> Answer:
        """The answer of a job once it has ended, whose `status` and `reason` say how; or once it is paused,
        for somebody to resume. Raises TimeoutError.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self.job(name).status not in (*ENDED, JobStatus.PAUSED):
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"job {name!r} has not ended within {timeout_s:g} s")
            time.sleep(WAITING_S)
        return self.answer(name)

    def answer(self, name: str) -> Answer:
        """As it stands; `recommendation` is None where there is none yet, or nothing to recommend."""
        return _parsed(Answer, self._connection.get(_path(name, "recommendation")))

    def trials(self, name: str) -> list[TrialRow]:
        """Every trial with what became of it and why."""
        rows: list[TrialRow] = []
        params: dict[str, str | int] = {}
        while True:
            found = _parsed(_TrialPage, self._connection.get(_path(name, "trials"), params))
            rows += found.trials
            if found.next is None:
                return rows
            params["after"] = found.next

    def explanation(self, name: str) -> JobExplanation:
        """Why the recommendation is what it is; raises NothingMeasured where there is none."""
        return _parsed(JobExplanation, self._connection.get(_path(name, "explanation")))

    def download(self, name: str, format: str, folder: str | Path) -> list[Path]:
        """Write the recommendation as files of `deepspeed`, `accelerate` or `torchrun` into `folder`.

        Files of the same names are replaced. Raises NothingMeasured where there is no recommendation.
        """
        archive = self._connection.content(_path(name, "exports", format))
        files = _unpacked(archive)
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for file, content in files.items():
                path = folder / file
                path.write_bytes(content)
                if path.suffix == ".sh":
                    path.chmod(path.stat().st_mode | 0o111)
        except OSError as error:
            raise BadInput(f"cannot write to {folder}: {error.strerror}; choose another folder") from error
        return [folder / file for file in files]

    def cancel(self, name: str) -> JobView:
        """Give a job up; raises BadInput for one that has ended."""
        return _parsed(JobView, self._connection.post(_path(name, "cancel")))

    def resume(self, name: str) -> JobView:
        """Let workers go on with a job that is paused or has failed; raises BadInput for another."""
        return _parsed(JobView, self._connection.post(_path(name, "resume")))


def _question(
    model: str | Mapping[str, Any],
    gpus: str | Mapping[str, Any],
    ceiling: str | int | None,
    headroom: float | str,
    space: str | Mapping[str, Any] | None,
    settings: Mapping[str, Choices] | None,
    global_batch_size: int | None,
    global_batch_tolerance: float | str,
    model_name: str | None,
) -> dict[str, Any]:
    """What a forecast and a job have in common, as the server takes it."""
    return {
        "model": model if isinstance(model, str) else dict(model),
        "model_name": model_name,
        "gpus": gpus if isinstance(gpus, str) else dict(gpus),
        "ceiling": arguments.size(ceiling),
        "headroom": arguments.share(headroom, "headroom"),
        "space": space if space is None or isinstance(space, str) else dict(space),
        "settings": {field: list(values) for field, values in arguments.settings(settings).items()},
        "global_batch_size": global_batch_size,
        "global_batch_tolerance": arguments.share(global_batch_tolerance, "global_batch_tolerance"),
    }


def _path(name: str, *rest: str) -> str:
    return "/".join(("v1/jobs", *(quote(part, safe="") for part in (name, *rest))))


def _parsed(kind: type[M], data: Any) -> M:
    try:
        return kind.parse(data)
    except ContractError as error:
        raise MachineFault(
            f"the server answered what this version of autotune does not know: {error}; use the version that "
            "the server has"
        ) from error


def _unpacked(archive: bytes) -> dict[str, bytes]:
    """The files of an export by their names; of a server that may be anybody's."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            entries = [entry for entry in opened.infolist() if not entry.is_dir()]
            names = [PurePosixPath(entry.filename).name for entry in entries]
            if (
                not all(map(FILE_NAME.fullmatch, names))
                or sum(e.file_size for e in entries) > MOST_EXPORT_BYTES
            ):
                raise MachineFault("the server sent an export that is none of autotune's; see its address")
            return {name: opened.read(entry) for name, entry in zip(names, entries, strict=True)}
    except zipfile.BadZipFile as error:
        raise MachineFault(
            f"the server sent an export that cannot be unpacked: {error}; ask again"
        ) from error
