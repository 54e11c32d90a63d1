"""The Optuna dashboard, read-only, told what is feasible in the words that it knows.

Its page asks for /static, /api and more from the root, so it answers there what no route does.
"""

import copy
import io
import json
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any, BinaryIO

import optuna
from a2wsgi import WSGIMiddleware
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from autotune.errors import AutotuneError
from autotune.search.study import OUTCOME
from autotune.service import Service
from autotune.web.problem import problem
from autotune.web.setup import MOST_ID

LEGACY_CONSTRAINTS = "constraints"
"""System attribute that optuna-dashboard 0.21 reads; Optuna 5 keeps constraints elsewhere."""
OF_A_TRIAL, OF_A_STUDY = "artifacts:", "dashboard:artifacts:"
"""Prefixes of the system attributes that tell of artifacts: of a trial, by which they are listed, and of a
study, by which they are looked up.
"""
ROOTS = ("/dashboard", "/api", "/static", "/artifacts", "/csv", "/favicon.ico")
"""Where it answers."""
WSGI_THREADS = 4


class ShownStorage(RDBStorage):
    """Optuna's storage as the dashboard should see it: trials say in its words whether they are feasible, and
    have what is kept of their probes as an artifact.
    """

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        """The best of the feasible ones; raises ValueError where there are none, as Optuna does."""
        complete = self.get_all_trials(study_id, deepcopy=False, states=(TrialState.COMPLETE,))
        feasible = [trial for trial in complete if all(c <= 0 for c in trial.constraints.values())]
        if not feasible:
            raise ValueError("No feasible trials are completed yet.")
        sign = 1 if self.get_study_directions(study_id)[0] == StudyDirection.MAXIMIZE else -1
        return max(feasible, key=lambda trial: sign * (trial.value or 0.0))

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        every = super().get_all_trials(study_id, deepcopy=False, states=states)
        return [_told(study_id, trial) for trial in every]

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Where the dashboard looks an artifact up that it is asked for."""
        logs = {
            f"{OF_A_STUDY}{trial._trial_id}:{_log_id(study_id, trial)}": _about_log(study_id, trial)
            for trial in super().get_all_trials(study_id, deepcopy=False)
            if OUTCOME in trial.user_attrs
        }
        return {**super().get_study_system_attrs(study_id), **logs}


def _told(study_id: int, trial: FrozenTrial) -> FrozenTrial:
    more: dict[str, Any] = {}
    if trial.constraints:
        more[LEGACY_CONSTRAINTS] = list(trial.constraints.values())
    if OUTCOME in trial.user_attrs:
        more[f"{OF_A_TRIAL}{_log_id(study_id, trial)}"] = _about_log(study_id, trial)
    shown = copy.copy(trial)
    shown.system_attrs = {**trial.system_attrs, **more}
    return shown


def _log_id(study_id: int, trial: FrozenTrial) -> str:
    """Hexadecimal digits and dashes: the dashboard's routes take no others."""
    return f"{study_id:x}-{trial.number:x}"


def _about_log(study_id: int, trial: FrozenTrial) -> str:
    return json.dumps(
        {
            "artifact_id": _log_id(study_id, trial),
            "filename": f"probe-{trial.number}.txt",
            "mimetype": "text/plain",
            "encoding": None,
        }
    )


@dataclass(frozen=True)
class ProbeLogs:
    """An artifact store of what is kept of probes, which is in our tables."""

    service: Service
    storage: RDBStorage

    def open_reader(self, artifact_id: str) -> BinaryIO:
        study, _, trial = artifact_id.partition("-")
        try:
            name = self.storage.get_study_name_from_id(int(study, 16))
            text = self.service.trial_log(name, int(trial, 16))
        except (KeyError, ValueError, AutotuneError) as error:
            raise ArtifactNotFound(f"nothing is kept of {artifact_id}") from error
        return io.BytesIO(text.encode())

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        raise PermissionError("the dashboard only shows")

    def remove(self, artifact_id: str) -> None:
        raise PermissionError("the dashboard only shows")


@dataclass(frozen=True)
class ReadOnly:
    """Its own API deletes studies for whoever asks, and ids that its database lacks are faults to it."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _refusal(scope)
        if answer is None:
            scope = {**scope, "headers": _with_encoding(scope["headers"])}
            try:
                await self.app(scope, receive, send)
            except KeyError:  # of Optuna's storage, for a study or a trial
                answer = _nothing_there()
        if answer is not None:
            await answer(scope, receive, send)


def _refusal(scope: Scope) -> Response | None:
    parts = scope["path"].split("/")[1:]
    if f"/{parts[0]}" not in ROOTS or any(map(_is_beyond, parts)):
        return _nothing_there()
    if scope["method"] != "GET":
        detail = "the dashboard only shows; jobs are changed under /v1/jobs"
        return problem(405, "read-only", detail, headers={"Allow": "GET, HEAD"})
    return None


def _is_beyond(part: str) -> bool:
    """Whether it is an id that no row has."""
    return part.isdecimal() and (len(part) > len(str(MOST_ID)) or int(part) > MOST_ID)


def _nothing_there() -> Response:
    return problem(404, "not-found", "there is no such page")


def _with_encoding(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without an Accept-Encoding, optuna-dashboard 0.21 fails on its static files."""
    given = list(headers)
    if any(name == b"accept-encoding" for name, _ in given):
        return given
    return [*given, (b"accept-encoding", b"identity")]


def dashboard(storage: RDBStorage, service: Service) -> ASGIApp:
    """An app for the root, that shows every study of the database."""
    import optuna_dashboard

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    wsgi: Any = optuna_dashboard.wsgi(storage, ProbeLogs(service, storage))
    wsgi.catchall = False  # what it fails by is answered as all else is
    served: Any = WSGIMiddleware(wsgi, workers=WSGI_THREADS)
    return ReadOnly(served)
