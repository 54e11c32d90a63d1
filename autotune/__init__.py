"""Tell it your model and your GPUs; it measures, and hands back the fastest configuration that fits.

>>> import autotune
>>> autotune.plan("llama-3.1-8b", "4090:1", ceiling="22GiB").ranked[0].config
>>> answer = autotune.tune("llama-3.1-8b", "H100:8", space="fsdp", trials=24)
>>> autotune.export_job(answer.job, "torchrun", "run")
"""

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

from autotune import errors
from autotune.api import answer, explain, export_job, plan, resume, trials, tune

if TYPE_CHECKING:
    from autotune.client import Client
    from autotune.report.answer import Answer
    from autotune.report.explanation import JobExplanation
    from autotune.report.plan import Plan
    from autotune.report.trials import TrialRow
    from autotune.search.events import Event, JobStarted, ProbeEnded, ProbeStarted, Standing
    from trials.contract.config import TrainingConfig

__all__ = [
    "Answer",
    "Client",
    "Event",
    "JobExplanation",
    "JobStarted",
    "Plan",
    "ProbeEnded",
    "ProbeStarted",
    "Standing",
    "TrainingConfig",
    "TrialRow",
    "answer",
    "errors",
    "explain",
    "export_job",
    "plan",
    "resume",
    "trials",
    "tune",
]

_WHERE = MappingProxyType(
    {
        "Answer": "autotune.report.answer",
        "Client": "autotune.client",
        "Event": "autotune.search.events",
        "JobExplanation": "autotune.report.explanation",
        "JobStarted": "autotune.search.events",
        "Plan": "autotune.report.plan",
        "ProbeEnded": "autotune.search.events",
        "ProbeStarted": "autotune.search.events",
        "Standing": "autotune.search.events",
        "TrainingConfig": "trials.contract.config",
        "TrialRow": "autotune.report.trials",
    }
)
"""Classes that are imported with their first use."""


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_WHERE]
