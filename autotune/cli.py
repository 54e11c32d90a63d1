"""The command line: parse, call the service, print."""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from autotune.errors import AutotuneError, BadInput

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Tell it your model and your GPUs; it measures, and hands back the fastest training configuration "
    "that fits, with the evidence.",
    epilog="Exit codes: 0 done; 1 a fault of ours or the machine's; 2 bad input; 3 nothing fits; "
    "4 nothing could be measured; 130 interrupted (and resumable).",
)

INTERRUPTED = 130

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
Storage = Annotated[
    str | None,
    typer.Option(
        help="Database URL, SQLite or PostgreSQL; else AUTOTUNE_STORAGE, else sqlite:///autotune.db.",
        metavar="URL",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="The job's name, as `autotune jobs` lists it.")]


@app.command()
def tune(
    model: Model,
    gpus: Gpus = "auto",
    name: Annotated[
        str | None, typer.Option(help="What to call the job; else the model's name and a number.")
    ] = None,
    ceiling: Annotated[
        str | None, typer.Option(help="Device memory one rank may use: 22GiB, 1500MiB or 90%; else all.")
    ] = None,
    headroom: Annotated[str, typer.Option(help="Share of the ceiling that must stay free.")] = "5%",
    space: Annotated[
        str | None, typer.Option(help="What may vary: a name (`autotune spaces`) or a YAML file.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE[,VALUE]", help="Pin or narrow a field; may be repeated."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Your present configuration: a JSON file, or field=value,field=value."),
    ] = None,
    global_batch_size: Annotated[
        int | None, typer.Option(help="Sequences per optimizer step; accumulation follows from it.", min=1)
    ] = None,
    global_batch_tolerance: Annotated[
        str, typer.Option(help="How far off the actual global batch may be.")
    ] = "10%",
    trials: Annotated[int, typer.Option(help="At most so many trials.", min=1)] = 24,
    minutes: Annotated[float | None, typer.Option(help="No trial begins after so many minutes.")] = None,
    sampler: Annotated[
        str, typer.Option(help="Who proposes: forecast_order, tpe, gp, random, exhaustive.")
    ] = "forecast_order",
    seed: Annotated[int, typer.Option(help="Of sampler and weights.", min=0)] = 0,
    executor: Annotated[Literal["ray", "local"], typer.Option(help="Where probes run.")] = "ray",
    ray_address: Annotated[
        str | None, typer.Option(help="A running Ray cluster; else AUTOTUNE_RAY_ADDRESS, else a local one.")
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Search for the fastest configuration with real training probes, and recommend it.

    Stop it at any time: everything measured is in the database, and `autotune resume` goes on.

    Example: autotune tune llama-3.1-8b --gpus H100:8 --ceiling 90% --space fsdp --trials 24
    """
    from autotune.hardware.sizes import parse_share
    from autotune.request import TuneRequest
    from search_spaces.dimensions import parse_setting

    request = TuneRequest(
        model=model,
        gpus=gpus,
        name=name,
        ceiling=ceiling,
        headroom=parse_share(headroom, "--headroom"),
        space=space,
        settings=dict(map(parse_setting, settings or [])),
        baseline=_baseline(baseline),
        global_batch_size=global_batch_size,
        global_batch_tolerance=parse_share(global_batch_tolerance, "--global-batch-tolerance"),
        trials=trials,
        minutes=minutes,
        sampler=sampler,
        seed=seed,
        executor=executor,
        ray_address=ray_address or _settings().ray_address,
    )
    with _service(storage) as service:
        _drive(lambda listener: service.tune(request, listener), as_json)


@app.command()
def resume(name: Name, storage: Storage = None, as_json: Json = False) -> None:
    """Go on with a job that was interrupted, paused or failed; its budget goes on where it was."""
    with _service(storage) as service:
        _drive(lambda listener: service.run(name, listener), as_json)


@app.command()
def jobs(storage: Storage = None, as_json: Json = False) -> None:
    """List the jobs in the database."""
    with _service(storage) as service:
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
        _print({"jobs": rows}, lambda terminal: terminal.jobs_view(found), as_json)


@app.command()
def show(name: Name, storage: Storage = None, as_json: Json = False) -> None:
    """Print the answer of a job as it stands."""
    with _service(storage) as service:
        answer = service.answer(name)
        _print(answer.to_dict(), lambda terminal: terminal.answer_view(answer), as_json)


@app.command(name="trials")
def trials_command(name: Name, storage: Storage = None, as_json: Json = False) -> None:
    """List every trial of a job with what became of it and why."""
    with _service(storage) as service:
        rows = service.trials(name)
        data = {"trials": [row.model_dump(mode="json") for row in rows]}
        _print(data, lambda terminal: terminal.trials_view(rows), as_json)


@app.command()
def export(
    name: Name,
    to: Annotated[str, typer.Option("--to", help="deepspeed, accelerate or torchrun.", metavar="FORMAT")],
    output: Annotated[Path, typer.Option(help="Folder for the files.", metavar="DIR")],
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Write the recommendation as files of the tool you train with, and a launch.sh."""
    with _service(storage) as service:
        written = [str(path) for path in service.export(name, to, output)]
        _print({"files": written}, lambda _: "\n".join(written), as_json)


@app.command()
def models(as_json: Json = False) -> None:
    """List the models that autotune knows by name."""
    from autotune.report.listings import known_models

    rows = known_models()
    _print({"models": rows}, lambda terminal: terminal.facts_view(rows), as_json)


@app.command()
def gpus(
    ray_address: Annotated[str | None, typer.Option(help="A running Ray cluster to look at.")] = None,
    as_json: Json = False,
) -> None:
    """List the GPUs that autotune knows, and the devices it finds here."""
    from autotune.report.listings import devices_here, known_gpus

    known, here = known_gpus(), devices_here(ray_address or _settings().ray_address)

    def view(terminal: Any) -> Any:
        from rich.console import Group

        return Group(terminal.facts_view(known), "", "here:", terminal.facts_view(here))

    _print({"gpus": known, "here": here}, view, as_json)


@app.command()
def spaces(
    name: Annotated[str | None, typer.Argument(help="A space to print; else all are listed.")] = None,
    as_json: Json = False,
) -> None:
    """List the search spaces, or print one to copy and edit."""
    from search_spaces.space import PRESETS, SearchSpace

    if name is not None:
        space = SearchSpace.load(name)
        source = PRESETS / f"{name}.yaml"
        text = (source if source.exists() else Path(name)).read_text()
        _print(space.model_dump(mode="json"), lambda _: text, as_json)
        return
    known = [SearchSpace.load(each) for each in SearchSpace.names()]
    rows: list[dict[str, object]] = [
        {
            "name": s.name,
            "description": s.description,
            "varies": [d for d, v in s.dimensions.items() if len(v) > 1],
        }
        for s in known
    ]
    _print({"spaces": rows}, lambda terminal: terminal.facts_view(rows), as_json)


def main() -> NoReturn:
    """Run the command line and exit with the code that its epilog lists."""
    from trials.contract.message import ContractError

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(standalone_mode=False)
        sys.exit(0)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except typer.BadParameter as error:
        _fail(f"{error.format_message().rstrip('.')}; see --help", BadInput.exit_code)
    except typer.TyperException as error:  # an unknown command or option
        _fail(f"{error}; see --help", BadInput.exit_code)
    except typer.Abort:
        _fail("interrupted", INTERRUPTED)
    except KeyboardInterrupt:
        _fail("interrupted; `autotune resume NAME` goes on", INTERRUPTED)
    except ContractError as error:
        _fail(str(error), BadInput.exit_code)
    except AutotuneError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        os._exit(0)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> NoReturn:
    print(f"autotune: {message}", file=sys.stderr)
    sys.exit(code)


def _settings() -> Any:
    from autotune.settings import Settings

    return Settings()


def _service(storage: str | None) -> Any:
    from autotune.service import Service

    return Service(storage or _settings().storage)


def _drive(job: Callable[[Any], Any], as_json: bool) -> None:
    """Run a job with its progress shown; on stderr where stdout is for JSON."""
    from autotune import terminal

    with terminal.progress(terminal.console(stderr=as_json)) as listener:
        answer = job(listener)
    _print(answer.to_dict(), lambda view: view.answer_view(answer), as_json)


def _print(data: dict[str, Any], view: Callable[[Any], Any], as_json: bool) -> None:
    """One JSON object, or what `view` makes of it with the terminal module."""
    if as_json:
        print(json.dumps(data, indent=2, default=str))
        return
    from autotune import terminal

    shown = view(terminal)
    if isinstance(shown, str):
        print(shown)
    else:
        terminal.console().print(shown)


def _baseline(text: str | None) -> Any:
    """A JSON file of a TrainingConfig, or field=value pairs."""
    from search_spaces.dimensions import parse_setting
    from trials.contract.config import TrainingConfig
    from trials.contract.message import ContractError

    if text is None:
        return None
    if "=" not in text:
        try:
            return TrainingConfig.parse(Path(text).read_bytes())
        except OSError as error:
            raise BadInput(
                f"--baseline {text}: {error.strerror}; give a JSON file or field=value,..."
            ) from error
        except ContractError as error:
            raise BadInput(f"--baseline {text}: {error}") from error
    settings = dict(map(parse_setting, text.split(",")))
    return TrainingConfig.parse({field: values[0] for field, values in settings.items()})
