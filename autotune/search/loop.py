"""The loop of a job: ask, probe, commit, tell; then confirm the leaders."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from statistics import median

from autotune.execution.executor import Executor
from autotune.search.candidates import Candidates
from autotune.search.confirmation import (
    MOST_AT_OTHER_LENGTHS,
    MOST_CONTENDERS,
    ROUNDS,
    Contender,
    due_at_other_lengths,
    due_for_confirmation,
    gather_contenders,
    next_to_confirm,
)
from autotune.search.events import Listener, ProbeEnded, ProbeLog, ProbeStarted, Standing
from autotune.search.history import TrialRecord, TrialState, is_last_crash, to_ask_again
from autotune.search.measuring import Measuring, fastest
from autotune.search.reuse import Known
from autotune.search.stopping import Budget, counted, has_settled, why_hopeless
from autotune.search.study import Asked, SearchStudy
from autotune.storage.records import Measurement
from trials.contract.config import TrainingConfig
from trials.contract.messages import MeasurementPlan, ProbeRequest, ProbeResult
from trials.contract.outcome import VERDICTS, Outcome, Phase

HEARTBEAT_S = 2.0
"""How often the lease is renewed, and the clock looked at, while probes run."""
SPARE_CONTENDERS = 1
"""Leaders that may fail their confirmation or fall behind; after that the answer is given as it stands."""

MAX_RESERVE = 1 / 3
"""Share of the budget's time that may be kept for confirmations: the search has to find what they confirm."""

Commit = Callable[[int, int, TrainingConfig, ProbeResult, str | None], None]
"""Trial, repeat, configuration, result and, where another job measured it, that one's name: into the database
before the study is told."""


@dataclass(frozen=True)
class _Probe:
    trial: int
    repeat: int
    config: TrainingConfig

    @property
    def id(self) -> str:
        return f"{self.trial}.{self.repeat}"


class SearchLoop:
    """Drives one job to its end; may be stopped and taken up again at any point."""

    def __init__(
        self,
        candidates: Candidates,
        baseline: TrainingConfig,
        study: SearchStudy,
        executor: Executor,
        budget: Budget,
        *,
        request: Callable[[str, TrainingConfig, MeasurementPlan], ProbeRequest],
        commit: Commit,
        measured: list[Measurement],
        heartbeat: Callable[[], None],
        listener: Listener,
        seconds_before: float = 0.0,
        measuring: Measuring | None = None,
        known: Mapping[TrainingConfig, Known] | None = None,
        min_speed: float = 0.0,
    ) -> None:
        """`request` makes the request of a probe by its name, configuration and plan; `measured` is what the
        job has committed so far; `seconds_before` is what its earlier drivers spent; `known` is what other
        jobs measured, in the order in which it is to be taken over; `min_speed` is the share of the fastest
        length's tokens/s that a length has to reach to be recommended.
        """
        self._candidates = candidates
        self._baseline = baseline
        self._study = study
        self._executor = executor
        self._budget = budget
        self._request = request
        self._commit = commit
        self._heartbeat = heartbeat
        self._listener = listener
        self._seconds_before = seconds_before
        self._measuring = measuring or Measuring()
        self._known = known or {}
        self._min_speed = min_speed
        self._started = time.monotonic()
        self._running: dict[Future[ProbeResult], _Probe] = {}
        self._logs: dict[str, str] = {}
        """What each probe said last."""
        self._ended: list[ProbeResult] = []
        """What came back to this driver, in order."""
        self._results: dict[int, dict[int, ProbeResult]] = {}
        for measurement in measured:
            self._results.setdefault(measurement.trial_number, {})[measurement.repeat] = measurement.result
        self._probe_seconds = sum(m.result.seconds for m in measured if m.reused_from is None)
        self._reused = {m.trial_number: m.reused_from for m in measured if m.reused_from is not None}

    def run(self) -> str:
        """Search, then confirm; return in words why the search ended."""
        self._reconcile()
        self._listener(self.standing())
        reason = self._search()
        if why_hopeless(self._ended) is None:
            self._repeat()
            self._confirm()
        return reason

    def contenders(self) -> list[Contender]:
        """Every trial with a figure, with all its results."""
        return gather_contenders(self._study.trials(), self._results, self._candidates.usable_bytes)

    def baseline_trial(self) -> TrialRecord | None:
        """The latest trial of the baseline."""
        own = [trial for trial in self._study.trials() if trial.config == self._baseline]
        return own[-1] if own else None

    def _reconcile(self) -> None:
        """Bring trials to an end that nobody runs, with what was committed of them: the last driver ended, or
        the database went away while one was asked for.
        """
        self._study.abandon_unnamed()
        ours = {probe.trial for probe in self._running.values()}
        for trial in self._study.trials():
            if trial.state == TrialState.RUNNING and trial.number not in ours:
                committed = self._results.get(trial.number, {}).get(0)
                reused_from = self._reused.get(trial.number)
                self._tell(trial.number, trial.config, committed or _interrupted(trial.number), reused_from)

    def _search(self) -> str:
        while True:
            reason = self._fill_slots()
            if not self._running:
                return reason
            self._settle()

    def _fill_slots(self) -> str:
        """Start probes while there is room and reason to; return why no more was started."""
        self._reconcile()
        while len(self._running) < self._executor.num_slots:
            asked = self._why_enough() or self._ask()
            if isinstance(asked, str):
                return asked
            if asked.config in self._known:
                self._take_over(asked, self._known[asked.config])
            else:
                self._start(_Probe(asked.number, 0, asked.config))
        return "all slots are taken"

    def _why_enough(self) -> str | None:
        """Why no trial may begin any more, be it ever so promising."""
        history = self._study.trials()
        if hopeless := why_hopeless(self._ended):
            return hopeless
        if self._budget.trials_left(history) <= 0:
            return f"the budget of {counted(self._budget.trials, 'trial')} is spent"
        if self._seconds() + self._reserved_seconds(history, self._budget.seconds) >= self._budget.seconds:
            return f"the budget of {counted(self._budget.seconds / 60, 'minute')} is spent"
        most = self._budget.probe_seconds
        if self._probe_seconds + self._reserved_seconds(history, most) >= most:
            hours = most * self._measuring.world_size / 3600
            return f"the budget of {counted(hours, 'GPU-hour')} is spent"
        return None

    def _ask(self) -> Asked | str:
        """The next trial; or why there is none worth while."""
        history = self._study.trials()
        if any(trial.state == TrialState.WAITING for trial in history):
            return self._study.ask_queued()
        if (due := self._due(history)) is not None:
            return self._study.ask_for(due)
        if not len(self._study.remaining()):
            return "every candidate has been probed"
        if has_settled(history, self._study.expected_gain(), self._budget.stop_below):
            return f"nothing left promises more than {100 * self._budget.stop_below:.3g} % of the best"
        return self._study.ask()

    def _due(self, history: list[TrialRecord]) -> TrainingConfig | None:
        """What is tried before the sampler has a say: the baseline, what other jobs have measured, and what
        has to be asked for again.
        """
        tried = {trial.config for trial in history}
        if self._baseline not in tried:
            return self._baseline
        untaken = (c for c in self._known if c not in tried and self._study.has(c))
        return next(untaken, None) or next(iter(to_ask_again(history)), None)

    def _take_over(self, asked: Asked, known: Known) -> None:
        """Let a trial end with what another job's probe measured."""
        self._commit(asked.number, 0, asked.config, known.result, known.job)
        self._results.setdefault(asked.number, {})[0] = known.result
        self._tell(asked.number, asked.config, known.result, known.job)
        outcome = known.result.outcome
        self._listener(ProbeEnded(asked.number, asked.config, outcome, known.result, reused_from=known.job))
        self._listener(self.standing())

    def _repeat(self) -> None:
        """Probe every trial with a figure again, round by round, so that a machine's drift is in all rows."""
        while not self._is_spent() and why_hopeless(self._ended) is None:
            due = [c for c in self.contenders() if c.has_speed and len(c.results) < self._measuring.repeats]
            if not due:
                return
            self._again(min(due, key=lambda contender: len(contender.results)))

    def _confirm(self) -> None:
        lengths = len({contender.config.sequence_length for contender in self.contenders()})
        most = MOST_CONTENDERS + SPARE_CONTENDERS + MOST_AT_OTHER_LENGTHS * (lengths - 1)
        for _ in range(most * ROUNDS):
            due = next_to_confirm(*self._rivals(), self._min_speed)
            if due is None or self._is_spent():
                return
            self._again(due)

    def _is_spent(self) -> bool:
        """Whether time has run out, also for what is no trial."""
        return self._seconds() >= self._budget.seconds or self._probe_seconds >= self._budget.probe_seconds

    def _again(self, contender: Contender) -> None:
        self._start(_Probe(contender.trial, contender.next_repeat, contender.config))
        while self._running:
            self._settle()

    def _start(self, probe: _Probe) -> None:
        self._listener(ProbeStarted(probe.trial, probe.config, probe.repeat))
        request = self._request(probe.id, probe.config, self._plan(probe))
        self._running[self._executor.submit(request)] = probe

    def _plan(self, probe: _Probe) -> MeasurementPlan:
        if probe.repeat >= self._measuring.repeats:
            return self._measuring.confirming()
        if probe.repeat or probe.config == self._baseline:
            return self._measuring.again()
        usable_bytes = self._candidates.usable_bytes
        best = fastest(self._study.trials(), probe.config.sequence_length, usable_bytes)
        return self._measuring.own(probe.config, best)

    def _settle(self) -> None:
        """Wait for probes to end, at most a heartbeat, and record those that did."""
        done, _ = wait(self._running, timeout=HEARTBEAT_S, return_when=FIRST_COMPLETED)
        self._heartbeat()
        self._tell_logs()
        ended = [(self._running.pop(future), future) for future in done]
        # Those with a result first: what was measured is recorded before another's fault ends the job.
        for probe, future in sorted(ended, key=lambda each: each[1].exception() is not None):
            result = future.result()
            self._ended.append(result)
            self._probe_seconds += result.seconds
            if result.outcome != Outcome.INTERRUPTED:  # which says nothing about the configuration
                self._commit(probe.trial, probe.repeat, probe.config, result, None)
                self._results.setdefault(probe.trial, {})[probe.repeat] = result
            if probe.repeat == 0:
                self._tell(probe.trial, probe.config, result)
            self._listener(ProbeEnded(probe.trial, probe.config, result.outcome, result, probe.repeat))
            self._listener(self.standing())

    def _tell_logs(self) -> None:
        """What running probes have to say since they were last asked."""
        for future, probe in self._running.items():
            text = "" if future.done() else self._executor.log(probe.id)
            if text and text != self._logs.get(probe.id):
                self._logs[probe.id] = text
                self._listener(ProbeLog(probe.trial, probe.repeat, text))

    def _tell(
        self, number: int, config: TrainingConfig, result: ProbeResult, reused_from: str | None = None
    ) -> None:
        earlier = [t for t in self._study.trials() if t.config == config and t.number < number]
        is_last = is_last_crash(result.outcome, earlier)
        self._study.tell(number, result, is_last=is_last, reused_from=reused_from)

    def standing(self) -> Standing:
        history = self._study.trials()
        usable = self._candidates.usable_bytes
        feasible = [
            t
            for t in history
            if t.outcome and VERDICTS[t.outcome].has_speed and (t.peak_bytes or 0) <= usable
        ]
        return Standing(
            history=tuple(history),
            best=max(feasible, key=lambda t: t.tokens_per_second, default=None),
            baseline=self.baseline_trial(),
            trials_left=self._budget.trials_left(history),
            seconds_spent=self._seconds(),
            seconds_left=self._budget.seconds - self._seconds(),
        )

    def _rivals(self) -> tuple[list[Contender], Contender | None]:
        """All contenders, and which of them is the baseline."""
        contenders = self.contenders()
        return contenders, next((c for c in contenders if c.config == self._baseline), None)

    def _reserved_seconds(self, history: list[TrialRecord], budget_seconds: float) -> float:
        """What of a budget the confirmations will take, by the trials so far; the first one began cold."""
        measured = [t for t in history if t.outcome and VERDICTS[t.outcome].has_speed]
        if not measured:
            return 0.0
        warm = [trial.seconds for trial in measured if trial.number > 0]
        contenders, baseline = self._rivals()
        due = due_for_confirmation(contenders, baseline, self._min_speed)
        probes = ROUNDS * len([*due, *due_at_other_lengths(contenders, self._min_speed)])
        needed = probes * median(warm or [trial.seconds for trial in measured])
        return min(needed, budget_seconds * MAX_RESERVE)

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started


def _interrupted(number: int) -> ProbeResult:
    return ProbeResult(
        probe_id=f"{number}.0",
        outcome=Outcome.INTERRUPTED,
        phase=Phase.START,
        reason="the driver ended while this probe ran, or lost its database as it began",
    )
