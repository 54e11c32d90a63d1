"""The commands and their options: parse, call the service, print."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from autotune.cli import options
from autotune.cli.output import drive, show, show_answer

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Tell it your model and your GPUs; it measures, and hands back the fastest training configuration "
    "that fits, with the evidence.",
    epilog="Exit codes: 0 done; 1 a fault of ours or the machine's; 2 bad input; 3 nothing fits; "
    "4 nothing could be measured; 130 interrupted (and resumable).",
)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A preset (`autotune models`), a Hugging Face config.json or its folder, "
        "or package.module:factory.",
    ),
]
Gpus = Annotated[
    str,
    typer.Option(
        help="auto, H100:8, 2x8xH100-80GB (nodes x GPUs x kind), cpu:2, or an inventory file.", metavar="SPEC"
    ),
]
Ceiling = Annotated[
    str | None,
    typer.Option(help="Device memory one rank may use: 22GiB, 1500MiB or 90%; else all.", metavar="SIZE"),
]
Headroom = Annotated[str, typer.Option(help="Share of the ceiling that must stay free.", metavar="SHARE")]
Space = Annotated[
    str | None,
    typer.Option(help="What may vary: a name (`autotune spaces`) or a YAML file.", metavar="NAME|FILE"),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Pin a field, or narrow it to several values: field=value,value; may be repeated.",
    ),
]
GlobalBatchSize = Annotated[
    int | None,
    typer.Option(help="Sequences per optimizer step; accumulation follows from it.", min=1, metavar="N"),
]
GlobalBatchTolerance = Annotated[
    str, typer.Option(help="How far off the actual global batch may be.", metavar="SHARE")
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="A running Ray cluster; else AUTOTUNE_RAY_ADDRESS, else a local one.", metavar="ADDRESS"
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        help="Database URL, SQLite or PostgreSQL; else AUTOTUNE_STORAGE, else sqlite:///autotune.db.",
        metavar="URL",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.", metavar="")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The job's name, as `autotune jobs` lists it.")]


@app.callback(invoke_without_command=True)
def autotune(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", metavar="")
    ] = False,
) -> None:
    if version:
        from importlib import metadata

        print(f"autotune {metadata.version('autotune')}")
    elif context.invoked_subcommand is None:
        print(context.get_help(), end="")


@app.command()
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
        Path | None, typer.Option(help="Write the plots to this HTML file.", metavar="FILE.html")
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


@app.command()
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


@app.command()
def resume(name: Name, storage: Storage = None, as_json: Json = False) -> None:
    """Go on with a job that was interrupted, paused or failed; its budget goes on where it was."""
    with options.service(storage) as service:
        drive(service, lambda listener: service.run(name, listener), as_json)


@app.command()
def jobs(storage: Storage = None, as_json: Json = False) -> None:
    """List the jobs in the database."""
    with options.service(storage) as service:
        found = service.jobs()
        rows = [
            {
                "job": j.name,
                "status": j.status,
                "reason": j.reason,
                "model": j.spec.model.name,
                "gpus": j.spec.gpus,
            }
            for j in found
        ]
        show({"jobs": rows}, lambda view: view.jobs_view(found, map(service.trials_done, found)), as_json)


@app.command(name="show")
def show_command(
    name: Name,
    plots: Annotated[
        Path | None,
        typer.Option(
            help="Also write plots into this folder: speed over memory, history, forecast, knobs.",
            metavar="DIR",
        ),
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Print the answer of a job as it stands."""
    with options.service(storage) as service:
        if plots is not None:
            service.save_plots(name, plots)
        show_answer(service, service.answer(name), as_json)


@app.command(name="explain")
def explain_command(name: Name, storage: Storage = None, as_json: Json = False) -> None:
    """Say why a job's recommendation is what it is: what bounds it, and what each other choice would cost."""
    with options.service(storage) as service:
        found = service.explain(name)
        show(found.to_dict(), lambda terminal: terminal.job_explanation_view(found), as_json)


@app.command(name="trials")
def trials_command(
    name: Name,
    table: Annotated[
        Path | None,
        typer.Option(
            help="Also write every probe of every trial to this JSON file, for searches to be replayed on "
            "(docs/tables.md).",
            metavar="FILE",
        ),
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """List every trial of a job with what became of it and why."""
    with options.service(storage) as service:
        rows = service.trials(name)
        if table is not None:
            service.write_table(name, table)
        data = {"trials": [row.model_dump(mode="json") for row in rows]}
        show(data, lambda terminal: terminal.trials_view(rows), as_json)


@app.command()
def export(
    name: Name,
    to: Annotated[str, typer.Option("--to", help="deepspeed, accelerate or torchrun.", metavar="FORMAT")],
    output: Annotated[Path, typer.Option(help="Folder for the files.", metavar="DIR")],
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Write the recommendation as files of the tool you train with, and a launch.sh."""
    with options.service(storage) as service:
        written = [str(path) for path in service.export(name, to, output)]
        show({"files": written}, lambda _: "\n".join(written), as_json)


@app.command()
def models(as_json: Json = False) -> None:
    """List the models that autotune knows by name."""
    from autotune.report.listings import known_models

    rows = known_models()
    show({"models": rows}, lambda terminal: terminal.models_view(rows), as_json)


@app.command()
def gpus(
    ray_address: Annotated[
        str | None, typer.Option(help="A running Ray cluster to look at.", metavar="ADDRESS")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the GPUs that autotune knows, and the devices it finds here."""
    from autotune.report.listings import devices_here, known_gpus

    known, here = known_gpus(), devices_here(ray_address or options.environment().ray_address)
    show({"gpus": known, "here": here}, lambda terminal: terminal.gpus_view(known, here), as_json)


@app.command()
def spaces(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A space, or the YAML file of one, to print; else all are listed.", metavar="NAME"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the search spaces, or print one to copy and edit."""
    from autotune.report.listings import known_spaces
    from search_spaces.space import PRESETS, SearchSpace

    if name is None:
        rows = known_spaces()
        show({"spaces": rows}, lambda terminal: terminal.spaces_view(rows), as_json)
    else:
        space = SearchSpace.load(name)
        source = PRESETS / f"{name}.yaml" if name in SearchSpace.names() else Path(name)
        show(space.model_dump(mode="json"), lambda _: source.read_text().rstrip("\n"), as_json)
