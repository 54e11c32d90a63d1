"""Commands that look for a configuration: forecast, search, go on."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from autotune.cli import options
from autotune.cli.arguments import (
    Ceiling,
    GlobalBatchSize,
    GlobalBatchTolerance,
    Gpus,
    Headroom,
    Json,
    Model,
    Name,
    RayAddress,
    Settings,
    Space,
    Storage,
)
from autotune.cli.output import drive, show


def plan(
    model: Model,
    gpus: Gpus = "auto",
    ceiling: Ceiling = None,
    headroom: Headroom = "5%",
    space: Space = None,
    settings: Settings = None,
    global_batch_size: GlobalBatchSize = None,
    global_batch_tolerance: GlobalBatchTolerance = "10%",
    top: Annotated[int, typer.Option(help="Rows to print.", min=1, metavar="N")] = 10,
    trace: Annotated[
        int,
        typer.Option(
            help="Run the real model on fake tensors for the first N rows: exact, and some seconds each.",
            min=0,
            metavar="N",
        ),
    ] = 0,
    explain: Annotated[
        str | None,
        typer.Option(
            help="Where memory and time of one configuration go: field=value,...; what is left out is as in "
            "the best row.",
            metavar="CONFIG",
        ),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Write the plots to this file, .html or .png.", metavar="FILE")
    ] = None,
    ray_address: RayAddress = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Forecast every legal configuration in a second and rank what fits, without a GPU.

    What jobs in the database measured on the same hardware corrects the forecast.

    Example: autotune plan llama-3.1-8b --gpus 4090:1 --ceiling 22GiB
    """
    from autotune import planner
    from autotune.errors import BadInput
    from autotune.hardware.sizes import parse_share
    from autotune.request import PlanRequest

    request = PlanRequest(
        model=model,
        gpus=gpus,
        ceiling=ceiling,
        headroom=parse_share(headroom, "--headroom"),
        space=options.given("--space", space),
        settings=options.settings("--set", settings or []),
        global_batch_size=global_batch_size,
        global_batch_tolerance=parse_share(global_batch_tolerance, "--global-batch-tolerance"),
        top=top,
        trace=trace,
        storage=options.storage(storage),
        ray_address=ray_address or options.environment().ray_address,
    )
    if explain is not None:
        if plot is not None or trace:
            raise BadInput("--explain neither plots nor traces; leave out --plot and --trace")
        explanation = planner.explain(request, options.one_value_each("--explain", explain))
        show(explanation.to_dict(), lambda terminal: terminal.explanation_view(explanation), as_json)
        return
    found = planner.plan(request)
    if plot is not None:
        planner.save_plot(found, plot)
    show(found.to_dict(), lambda terminal: terminal.plan_view(found), as_json)
    planner.require_something(found)


def tune(
    model: Model,
    gpus: Gpus = "auto",
    name: Annotated[
        str | None,
        typer.Option(help="What to call the job; else the model's name and a number.", metavar="NAME"),
    ] = None,
    ceiling: Ceiling = None,
    headroom: Headroom = "5%",
    space: Space = None,
    settings: Settings = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            help="Your present configuration, which speed-up is quoted against: a JSON file, or "
            "field=value,field=value; else one that autotune chooses.",
            metavar="CONFIG",
        ),
    ] = None,
    global_batch_size: GlobalBatchSize = None,
    global_batch_tolerance: GlobalBatchTolerance = "10%",
    min_speed: Annotated[
        str,
        typer.Option(
            help="Where several lengths are searched: recommend the longest whose tokens/s reach this share "
            "of the fastest length's; 0, the longest that fits.",
            metavar="SHARE",
        ),
    ] = "0",
    trials: Annotated[int, typer.Option(help="At most so many trials.", min=1, metavar="N")] = 24,
    minutes: Annotated[
        float | None, typer.Option(help="No trial begins after so many minutes.", metavar="M")
    ] = None,
    gpu_hours: Annotated[
        float | None,
        typer.Option(help="No trial begins once the probes have taken so many GPU-hours.", metavar="H"),
    ] = None,
    sampler: Annotated[
        str,
        typer.Option(
            help="Who proposes: cost_model (the forecast, corrected by every probe), forecast_order, tpe, "
            "gp, random, exhaustive.",
            metavar="NAME",
        ),
    ] = "cost_model",
    stop_below: Annotated[
        str,
        typer.Option(
            help="Stop when no candidate is expected to beat the best by more; 0 spends the whole budget.",
            metavar="SHARE",
        ),
    ] = "1%",
    seed: Annotated[int, typer.Option(help="Of sampler and weights.", min=0, metavar="N")] = 0,
    probe_seconds: Annotated[
        float,
        typer.Option(
            help="Seconds of steps that a probe measures at most, unless its interval is narrow before.",
            metavar="S",
        ),
    ] = 10.0,
    repeats: Annotated[
        int,
        typer.Option(
            help="Probes of each configuration, one round after the other; 2 and more make a table "
            "(`autotune trials NAME --table FILE`) whose rows tell their own noise.",
            min=1,
            metavar="N",
        ),
    ] = 1,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", help="Measure again what earlier jobs in the database have measured already."
        ),
    ] = False,
    executor: Annotated[
        Literal["ray", "local"],
        typer.Option(help="Where probes run: on Ray workers, or on this machine without Ray."),
    ] = "ray",
    ray_address: RayAddress = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Search for the fastest configuration with real training probes, and recommend it.

    Stop it at any time: everything measured is in the database, and `autotune resume` goes on.

    Example: autotune tune llama-3.1-8b --gpus H100:8 --ceiling 90% --space fsdp --trials 24
    """
    from autotune.hardware.sizes import parse_share
    from autotune.request import TuneRequest

    request = TuneRequest(
        model=model,
        gpus=gpus,
        name=options.job_name(name),
        ceiling=ceiling,
        headroom=parse_share(headroom, "--headroom"),
        space=options.given("--space", space),
        settings=options.settings("--set", settings or []),
        baseline=options.baseline(baseline),
        global_batch_size=global_batch_size,
        global_batch_tolerance=parse_share(global_batch_tolerance, "--global-batch-tolerance"),
        min_speed=parse_share(min_speed, "--min-speed"),
        trials=trials,
        minutes=minutes,
        gpu_hours=gpu_hours,
        sampler=sampler,
        stop_below=parse_share(stop_below, "--stop-below"),
        seed=seed,
        probe_seconds=probe_seconds,
        repeats=repeats,
        fresh=fresh,
        executor=executor,
        ray_address=ray_address or options.environment().ray_address,
    )
    with options.service(storage) as service:
        drive(service, lambda listener: service.tune(request, listener), as_json)


def resume(name: Name, storage: Storage = None, as_json: Json = False) -> None:
    """Go on with a job that was interrupted, paused or failed; its budget goes on where it was."""
    with options.service(storage) as service:
        drive(service, lambda listener: service.run(name, listener), as_json)
