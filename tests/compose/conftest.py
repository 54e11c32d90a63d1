"""The services of docker-compose.yml, started once for the tests of this folder."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from stack import PASSWORD, SERVICES, Stack, end_processes_of, free_port


@pytest.fixture(scope="package")
def database(postgresql_url: str) -> Iterator[sqlalchemy.URL]:
    """What the image of postgres makes of its environment: a user with a password, and a database."""
    made = SERVICES["postgres"]["environment"]
    server = sqlalchemy.make_url(postgresql_url).set(drivername="postgresql+psycopg")
    engine = sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)

    def execute(*statements: str) -> None:
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    with engine.connect() as connection:
        rules = Path(str(connection.exec_driver_sql("SHOW hba_file").scalar()))
    kept = rules.read_text()
    execute(
        f"CREATE ROLE {made['POSTGRES_USER']} LOGIN PASSWORD '{PASSWORD}'",
        f"CREATE DATABASE {made['POSTGRES_DB']} OWNER {made['POSTGRES_USER']}",
    )
    rules.write_text(f"local all {made['POSTGRES_USER']} scram-sha-256\n{kept}")
    execute("SELECT pg_reload_conf()")
    yield server
    rules.write_text(kept)
    execute(
        "SELECT pg_reload_conf()",
        f"DROP DATABASE {made['POSTGRES_DB']} WITH (FORCE)",
        f"DROP ROLE {made['POSTGRES_USER']}",
    )


@pytest.fixture(scope="package")
def stack(database: sqlalchemy.URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """`docker compose up --scale worker=2`."""
    # Short, since it becomes part of a socket's name.
    ray_folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    ray_port, port = free_port(), free_port()
    socket_folder = str(database.query["host"])
    replacements = {
        "@postgres:5432/autotune": f"@/autotune?host={socket_folder}",
        "--host=127.0.0.1": f"--host={socket_folder}",  # of the health check of postgres
        "ray-head:6379": f"127.0.0.1:{ray_port}",
        "127.0.0.1:6379": f"127.0.0.1:{ray_port}",
        "--port=6379": f"--port={ray_port}",
        "--host=0.0.0.0": "--host=127.0.0.1",
        "--port=8000": f"--port={port}",
        "127.0.0.1:8000": f"127.0.0.1:{port}",
    }
    stack = Stack(tmp_path_factory.mktemp("compose"), ray_folder, replacements)
    try:
        for service in ("ray-head", "ray-worker", "api", "worker", "worker"):
            stack.up(service)
        stack.wait_until_healthy()
        yield stack
    finally:
        left = end_processes_of(ray_folder)
        stack.reap()
        shutil.rmtree(ray_folder, ignore_errors=True)
    assert left == []
