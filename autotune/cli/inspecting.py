"""Commands that look at jobs, and take what they found."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli import options
from autotune.cli.arguments import Json, Name, Storage
from autotune.cli.output import show, show_answer
from autotune.errors import BadInput


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


def show_job(
    name: Name,
    plots: Annotated[
        Path | None,
        typer.Option(
            help="Also write plots into this folder: speed over memory, history, forecast, knobs.",
            metavar="DIR",
        ),
    ] = None,
    png: Annotated[
        bool, typer.Option("--png", help="Those plots as PNG too; takes Chrome or Chromium.", metavar="")
    ] = False,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Print the answer of a job as it stands."""
    if png and plots is None:
        raise BadInput("--png is about plots; say where to: --plots DIR --png")
    with options.service(storage) as service:
        if plots is not None:
            service.save_plots(name, plots, ("html", "png") if png else ("html",))
        show_answer(service, service.answer(name), as_json)


def explain(name: Name, storage: Storage = None, as_json: Json = False) -> None:
    """Say why a job's recommendation is what it is: what bounds it, and what each other choice would cost."""
    with options.service(storage) as service:
        found = service.explain(name)
        show(found.to_dict(), lambda terminal: terminal.job_explanation_view(found), as_json)


def trials(
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
