"""Progress of a search in lines, for logs and pipes."""

from rich.console import Console

from autotune.hardware.sizes import format_bytes
from autotune.search.confirmation import ROUNDS
from autotune.search.events import Event, JobStarted, ProbeEnded, Standing
from autotune.search.history import TrialRecord
from autotune.search.stopping import counted
from autotune.terminal.words import describe, figure, opening, over_baseline, spoken
from trials.contract.outcome import VERDICTS


class PlainProgress:
    """A line for each probe that ended, and one when it is the best so far."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._best: TrialRecord | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, JobStarted):
            for line in opening(event):
                self._print(line)
        elif isinstance(event, ProbeEnded):
            self._print(_line(event))
        elif isinstance(event, Standing) and event.best is not None and event.best != self._best:
            self._best = event.best
            over = over_baseline(event.best, event.baseline)
            self._print(f"  best so far{over}; {counted(event.trials_left, 'trial')} left")

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def _line(event: ProbeEnded) -> str:
    repeat = f", confirmation {event.repeat} of {ROUNDS}" if event.repeat else ""
    speed, peak_bytes = event.result.tokens_per_second, event.result.peak_bytes
    words = [f"{figure(speed.median)} tokens/s" if speed else spoken(event.outcome)]
    if peak_bytes and VERDICTS[event.outcome].completes:
        words.append(f"peak {format_bytes(peak_bytes)}")
    why = f": {event.result.reason}" if event.result.reason else ""
    if event.reused_from is not None:
        words.append(f"as job {event.reused_from} measured it")
    return f"trial {event.trial}{repeat}: {', '.join(words)} [{describe(event.config)}]{why}"
