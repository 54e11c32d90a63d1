"""Commands that list what autotune knows by name."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli import options
from autotune.cli.arguments import Json
from autotune.cli.output import show


def models(as_json: Json = False) -> None:
    """List the models that autotune knows by name."""
    from autotune.report.listings import known_models

    rows = known_models()
    show({"models": rows}, lambda terminal: terminal.models_view(rows), as_json)


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
