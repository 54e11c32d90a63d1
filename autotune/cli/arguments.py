"""Arguments and options that several commands have."""

from typing import Annotated

import typer

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
