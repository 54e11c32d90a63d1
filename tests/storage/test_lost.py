"""A database that is lost while it is used."""

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from autotune.errors import StorageUnavailable
from autotune.jobs import JobSpec
from autotune.storage.engine import create_engine
from autotune.storage.repository import Repository

MakeSpec = Callable[..., JobSpec]


class TestLostServer:
    def test_connections_that_broke_while_idle_are_made_again(
        self, fresh_postgresql_url: str, make_spec: MakeSpec
    ) -> None:
        with Repository(fresh_postgresql_url) as repository:
            job = repository.create_job(make_spec())
            _end_connections(fresh_postgresql_url, make_url(fresh_postgresql_url).database)
            assert repository.jobs() == [job]

    def test_an_interrupt_is_one_though_the_connection_is_lost_under_it(
        self, fresh_postgresql_url: str
    ) -> None:
        def interrupted(repository: Repository) -> None:
            with repository._transaction() as session:
                session.execute(text("SELECT 1"))
                _end_connections(fresh_postgresql_url, make_url(fresh_postgresql_url).database)
                raise KeyboardInterrupt

        with Repository(fresh_postgresql_url) as repository, pytest.raises(KeyboardInterrupt):
            interrupted(repository)

    def test_message_has_no_password(
        self, postgresql_url: str, fresh_postgresql_url: str, make_spec: MakeSpec
    ) -> None:
        url = make_url(fresh_postgresql_url).set(password="correct-horse")
        with Repository(url.render_as_string(hide_password=False)) as repository:
            with create_engine(postgresql_url).begin() as connection:
                connection.execute(text(f'ALTER DATABASE "{url.database}" ALLOW_CONNECTIONS false'))
            _end_connections(postgresql_url, url.database)
            with pytest.raises(StorageUnavailable, match="not currently accepting connections") as lost:
                repository.create_job(make_spec())
        assert "correct-horse" not in str(lost.value)


def _end_connections(url: str, database: str | None) -> None:
    query = text(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = :database AND pid <> pg_backend_pid()"
    )
    with create_engine(url).begin() as connection:
        assert connection.execute(query, {"database": database}).scalars().all() == [True]


def test_a_folder_that_vanishes(tmp_path: Path, make_spec: MakeSpec) -> None:
    with Repository(f"sqlite:///{tmp_path / 'a.db'}") as repository:
        repository.close()
        (tmp_path / "a.db").unlink()
        tmp_path.rename(tmp_path.with_name("moved"))
        with pytest.raises(StorageUnavailable, match="unable to open database file"):
            repository.create_job(make_spec())
