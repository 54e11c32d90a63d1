"""The command line as functions, with its words and its defaults; errors are those of `autotune.errors`.

Each imports what it needs when it is called, so that `import autotune` costs nothing.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from autotune.arguments import Choices, Words
    from autotune.report.answer import Answer
    from autotune.report.explanation import JobExplanation
    from autotune.report.plan import Plan
    from autotune.report.trials import TrialRow
    from autotune.search.events import Event, Listener
    from autotune.service import Service
    from search_spaces.columns import Value
    from trials.contract.config import TrainingConfig


def plan(
    model: "Words",
    gpus: "Words" = "auto",
    *,
    ceiling: str | int | None = None,
    headroom: float | str = 0.05,
    space: "Words | None" = None,
    set: "Mapping[str, Choices] | None" = None,
    global_batch_size: int | None = None,
    global_batch_tolerance: float | str = 0.10,
    top: int = 10,
    trace: int = 0,
    model_name: str | None = None,
    ray_address: str | None = None,
    storage: str | None = None,
) -> "Plan":
    """Forecast every legal configuration in a second and rank what fits, without a GPU.

    `model` is a preset's name, a config.json or its folder, `package.module:factory`, or a Hugging Face
    configuration as a mapping; `gpus` and `space` may be mappings too, as their files have them. `ceiling` is
    in bytes, or text such as `22GiB` and `90%`; `set` has values of fields, as in
    `{"precision": "bf16", "micro_batch_size": range(1, 9)}`. Where nothing fits, `nearest` and `advice` of
    the plan say what would.
    """
    from autotune import arguments, planner
    from autotune.request import PlanRequest

    return planner.plan(
        PlanRequest(
            model=arguments.words(model),
            gpus=arguments.words(gpus),
            ceiling=arguments.size(ceiling),
            headroom=arguments.share(headroom, "headroom"),
            space=None if space is None else arguments.words(space),
            settings=arguments.settings(set),
            global_batch_size=arguments.count(global_batch_size, "global_batch_size"),
            global_batch_tolerance=arguments.share(global_batch_tolerance, "global_batch_tolerance"),
            top=arguments.count(top, "top") or 1,
            trace=max(trace, 0),
            model_name=model_name,
            ray_address=ray_address or _environment("ray_address"),
            storage=storage or _environment("storage"),
        )
    )


def tune(
    model: "Words",
    gpus: "Words" = "auto",
    *,
    name: str | None = None,
    ceiling: str | int | None = None,
    headroom: float | str = 0.05,
    space: "Words | None" = None,
    set: "Mapping[str, Choices] | None" = None,
    baseline: "Mapping[str, Value] | TrainingConfig | None" = None,
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
    executor: Literal["ray", "local"] = "ray",
    model_name: str | None = None,
    ray_address: str | None = None,
    storage: str | None = None,
    on_event: "Callable[[Event], None] | None" = None,
) -> "Answer":
    """Search for the fastest configuration with real training probes, and recommend it.

    Arguments as in `plan`; `baseline` is your present configuration, or the fields of it that you know.
    `on_event` is told of each probe as it begins and ends. KeyboardInterrupt leaves a job that `resume` goes
    on with. Raises NothingFits, and NothingMeasured where no probe came back with a figure.
    """
    from autotune import arguments
    from autotune.request import TuneRequest

    request = TuneRequest(
        model=arguments.words(model),
        gpus=arguments.words(gpus),
        name=name,
        ceiling=arguments.size(ceiling),
        headroom=arguments.share(headroom, "headroom"),
        space=None if space is None else arguments.words(space),
        settings=arguments.settings(set),
        baseline=arguments.baseline(baseline),
        global_batch_size=global_batch_size,
        global_batch_tolerance=arguments.share(global_batch_tolerance, "global_batch_tolerance"),
        min_speed=arguments.share(min_speed, "min_speed"),
        trials=trials,
        minutes=minutes,
        gpu_hours=gpu_hours,
        sampler=sampler,
        stop_below=arguments.share(stop_below, "stop_below"),
        seed=seed,
        probe_seconds=probe_seconds,
        repeats=repeats,
        fresh=fresh,
        executor=executor,
        model_name=model_name,
        ray_address=ray_address or _environment("ray_address"),
    )
    with _service(storage) as service:
        return service.tune(request, _listener(on_event))


def resume(
    name: str, *, storage: str | None = None, on_event: "Callable[[Event], None] | None" = None
) -> "Answer":
    """Go on with a job that was interrupted, paused or failed; its budget goes on where it was."""
    with _service(storage) as service:
        return service.run(name, _listener(on_event))


def answer(name: str, *, storage: str | None = None) -> "Answer":
    """The answer of a job as it stands."""
    with _service(storage) as service:
        return service.answer(name)


def trials(name: str, *, storage: str | None = None) -> "list[TrialRow]":
    """Every trial of a job with what became of it and why."""
    with _service(storage) as service:
        return service.trials(name)


def explain(name: str, *, storage: str | None = None) -> "JobExplanation":
    """Why a job's recommendation is what it is; raises NothingMeasured where there is none."""
    with _service(storage) as service:
        return service.explain(name)


def export_job(
    name: str, to: str, output: str | os.PathLike[str], *, storage: str | None = None
) -> list[Path]:
    """Write the recommendation as files of `deepspeed`, `accelerate` or `torchrun` into the folder `output`.

    Raises NothingMeasured where there is none.
    """
    with _service(storage) as service:
        return service.export(name, to, Path(output))


def _service(storage: str | None) -> "Service":
    from autotune.service import Service

    return Service(storage or str(_environment("storage")))


def _environment(name: Literal["storage", "ray_address"]) -> str | None:
    from autotune.settings import Settings

    found: str | None = getattr(Settings(), name)
    return found


def _listener(on_event: "Callable[[Event], None] | None") -> "Listener":
    def tell(event: "Event") -> None:
        if on_event is not None:
            on_event(event)

    return tell
