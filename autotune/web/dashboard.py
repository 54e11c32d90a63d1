"""The Optuna dashboard, read-only, told what is feasible in the words that it knows.

Its page asks for /static, /api and more from the root, so it is mounted there, after everything else.
"""

import copy
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

import optuna
from a2wsgi import WSGIMiddleware
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from starlette.types import ASGIApp, Receive, Scope, Send

from autotune.web.problem import problem

LEGACY_CONSTRAINTS = "constraints"
"""System attribute that optuna-dashboard 0.21 reads; Optuna 5 keeps constraints elsewhere."""
ROOTS = ("/dashboard", "/api", "/static", "/artifacts", "/csv", "/favicon.ico")
"""Where it answers."""
READS = ("GET", "HEAD")
WSGI_THREADS = 4


class ShownStorage(RDBStorage):
    """Optuna's storage as the dashboard should see it."""

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
        return [_told(trial) for trial in super().get_all_trials(study_id, deepcopy=False, states=states)]


def _told(trial: FrozenTrial) -> FrozenTrial:
    shown = copy.copy(trial)
    if trial.constraints:
        shown.system_attrs = {**trial.system_attrs, LEGACY_CONSTRAINTS: list(trial.constraints.values())}
    return shown


@dataclass(frozen=True)
class ReadOnly:
    """Its own API deletes studies for whoever asks."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and f"/{scope['path'].split('/')[1]}" not in ROOTS:
            await problem(404, "not-found", "there is no such page")(scope, receive, send)
            return
        if scope["type"] == "http" and scope["method"] not in READS:
            answer = problem(405, "read-only", "the dashboard only shows; jobs are changed under /v1/jobs")
            await answer(scope, receive, send)
            return
        if scope["type"] == "http":
            scope = {**scope, "headers": _with_encoding(scope["headers"])}
        await self.app(scope, receive, send)


def _with_encoding(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without an Accept-Encoding, optuna-dashboard 0.21 fails on its static files."""
    given = list(headers)
    if any(name == b"accept-encoding" for name, _ in given):
        return given
    return [*given, (b"accept-encoding", b"identity")]


def dashboard(storage: RDBStorage, artifacts: Any = None) -> ASGIApp:
    """An app for the root, that shows every study of the database, with artifacts where they are kept."""
    import optuna_dashboard

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    served: Any = WSGIMiddleware(optuna_dashboard.wsgi(storage, artifacts), workers=WSGI_THREADS)
    return ReadOnly(served)
