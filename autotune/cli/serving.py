"""Commands that run the service: the server, workers, who may use it."""

import logging
import os
import signal
import sys
import threading
from typing import Annotated, Literal

import typer

from autotune.cli import options
from autotune.cli.arguments import Json, RayAddress, Storage
from autotune.cli.output import show


def serve(
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. Where others reach the server, by another address than this "
            "machine's own or by a name in AUTOTUNE_HOSTS, it needs a token (AUTOTUNE_TOKEN, or "
            "`autotune tokens`).",
            metavar="ADDRESS",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535, metavar="PORT")] = 8000,
    workers: Annotated[
        int,
        typer.Option(
            help="Workers to run beside the server; 0 where `autotune worker` runs elsewhere.",
            min=0,
            metavar="N",
        ),
    ] = 1,
    executor: Annotated[
        Literal["ray", "local"] | None,
        typer.Option(help="Where probes of jobs run that do not say; ray unless AUTOTUNE_EXECUTOR does."),
    ] = None,
    ray_address: RayAddress = None,
    storage: Storage = None,
) -> None:
    """Serve pages and API, with a worker beside them: submit from a browser, watch, take the answer.

    Everything is in the database: stop it whenever you like, and start it again.

    Example: autotune serve, then open http://127.0.0.1:8000
    """
    from autotune.serving import serve as run

    _log()
    settings = options.environment()
    chosen = {
        "storage": options.storage(storage),
        "ray_address": ray_address or settings.ray_address,
        "executor": executor or settings.executor,
    }
    run(settings.model_copy(update=chosen), host, port, workers)


def worker(
    ray_address: RayAddress = None,
    storage: Storage = None,
    until_stdin_ends: Annotated[
        bool, typer.Option("--until-stdin-ends", help="Stop with whoever holds the other end.", hidden=True)
    ] = False,
) -> None:
    """Take jobs from the database, one after the other, and drive each to its end.

    Any number of workers, on any machines, share a database. Stopped, one gives its job back.

    Example: AUTOTUNE_STORAGE=postgresql://user@host/db autotune worker --ray-address head:6379
    """
    from autotune.record import Record
    from autotune.worker import Worker

    _log()
    if until_stdin_ends:
        threading.Thread(target=_stop_with_stdin, daemon=True).start()
    record = Record(options.storage(storage))
    try:
        Worker(record, ray_address=ray_address or options.environment().ray_address).run(threading.Event())
    except KeyboardInterrupt:
        logging.getLogger("autotune").info("stopped")
    finally:
        record.close()


def tokens(
    add: Annotated[
        str | None,
        typer.Option(help="Make a token of this name; it is printed once, and only then.", metavar="NAME"),
    ] = None,
    role: Annotated[
        Literal["read", "submit", "admin"],
        typer.Option(help="What it allows; each allows what is before it."),
    ] = "submit",
    revoke: Annotated[
        str | None, typer.Option(help="Have the token of this name open nothing any more.", metavar="NAME")
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """List, make and revoke the tokens that a server asks for.

    Example: autotune tokens --add ci --role submit
    """
    from autotune.errors import BadInput
    from autotune.storage.tokens import Role

    if add is not None and revoke is not None:
        raise BadInput("--add makes a token and --revoke ends one; do one at a time")
    with options.service(storage) as service:
        if add is not None:
            name = options.job_name(add) or ""
            token = service.create_token(name, Role(role))
            show({"name": name, "role": role, "token": token}, lambda _: token, as_json)
            return
        if revoke is not None:
            service.revoke_token(revoke)
        rows = [{"name": t.name, "role": t.role, "created_at": t.created_at} for t in service.tokens()]
        show({"tokens": rows}, lambda terminal: terminal.tokens_view(rows), as_json)


def _log() -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        force=True,
    )
    named = options.environment().log_level.upper()
    logging.getLogger("autotune").setLevel("INFO" if named == "WARNING" else named)


def _stop_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
