"""The commands by name: each parses its options, calls the service, and prints."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated

import typer

from autotune.cli import catalogues, inspecting, searching, serving

COMMANDS: Mapping[str, Callable[..., None]] = MappingProxyType(
    {
        "plan": searching.plan,
        "tune": searching.tune,
        "resume": searching.resume,
        "jobs": inspecting.jobs,
        "show": inspecting.show_job,
        "explain": inspecting.explain,
        "trials": inspecting.trials,
        "export": inspecting.export,
        "models": catalogues.models,
        "gpus": catalogues.gpus,
        "spaces": catalogues.spaces,
        "serve": serving.serve,
        "worker": serving.worker,
        "tokens": serving.tokens,
    }
)
"""In the order in which --help lists them."""

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Tell it your model and your GPUs; it measures, and hands back the fastest training configuration "
    "that fits, with the evidence.",
    epilog="Exit codes: 0 done; 1 a fault of ours or the machine's; 2 bad input; 3 nothing fits; "
    "4 nothing could be measured; 130 interrupted (and resumable).",
)


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


for _name, _command in COMMANDS.items():
    app.command(name=_name)(_command)
