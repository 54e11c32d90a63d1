"""Commands that list what autotune knows by name."""

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli import options
from autotune.cli.arguments import GlobalBatchSize, Gpus, Json, RayAddress
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
    model: Annotated[
        str | None,
        typer.Option(
            "--for",
            help="Show what is left of the space for this model, and why the rest cannot be probed.",
            metavar="MODEL",
        ),
    ] = None,
    gpus: Gpus = "auto",
    global_batch_size: GlobalBatchSize = None,
    ray_address: RayAddress = None,
    as_json: Json = False,
) -> None:
    """List the search spaces, or print one to copy and edit.

    Example: autotune spaces fsdp --for llama-3.1-8b --gpus 4090:2
    """
    from autotune.errors import BadInput
    from autotune.report.listings import known_spaces
    from search_spaces.space import PRESETS, SearchSpace

    if model is not None:
        from autotune.narrowing import narrow

        if name is None:
            raise BadInput("--for narrows one space; name it: autotune spaces NAME --for MODEL --gpus SPEC")
        address = ray_address or options.environment().ray_address
        found = narrow(name, model, gpus, ray_address=address, global_batch_size=global_batch_size)
        show(found.to_dict(), lambda terminal: terminal.narrowed_view(found), as_json)
    elif name is None:
        rows = known_spaces()
        show({"spaces": rows}, lambda terminal: terminal.spaces_view(rows), as_json)
    else:
        space = SearchSpace.load(name)
        source = PRESETS / f"{name}.yaml" if name in SearchSpace.names() else Path(name)
        show(space.model_dump(mode="json"), lambda _: source.read_text().rstrip("\n"), as_json)
