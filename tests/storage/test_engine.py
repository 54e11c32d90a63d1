import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from sqlalchemy import exc, make_url, text
from storage_support import Crew

from autotune.errors import StorageUnavailable
from autotune.storage.backend import parse_url
from autotune.storage.engine import create_engine, optuna_storage
from autotune.storage.faults import mapped_errors
from autotune.storage.repository import Repository
from autotune.storage.sqlite import BUSY_TIMEOUT_S, ImmediateConnection

PASSWORD = "correct-horse"


def unusable(url: str) -> str:
    """Open both halves of a database that cannot be; return the sentence, which both must say."""
    with pytest.raises(StorageUnavailable) as ours:
        Repository(url)
    with pytest.raises(StorageUnavailable) as optunas:
        optuna_storage(url)
    assert str(ours.value) == str(optunas.value)
    assert len(str(ours.value).splitlines()) == 1
    return str(ours.value)


class TestSqlite:
    def test_settings_of_every_connection(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'a.db'}"
        for engine in (create_engine(url), optuna_storage(url).engine):
            with engine.connect() as one, engine.connect() as other:
                one.rollback()
                for connection in (one, other):
                    settings = {
                        name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                        for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
                    }
                    connection.rollback()
                    assert settings == {
                        "journal_mode": "wal",
                        "synchronous": 1,
                        "foreign_keys": 1,
                        "busy_timeout": 60_000,
                    }

    def test_reading_shuts_other_transactions_out(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'a.db'}"
        for engine in (create_engine(url), optuna_storage(url).engine):
            begun = threading.Event()

            def read(engine: sqlalchemy.Engine = engine, begun: threading.Event = begun) -> None:
                with engine.connect() as other:
                    other.execute(text("SELECT 1"))
                    begun.set()

            with engine.connect() as one:
                one.execute(text("SELECT 1"))
                reader = threading.Thread(target=read)
                reader.start()
                assert not begun.wait(0.2)
            reader.join(10)
            assert begun.is_set()
            engine.dispose()

    def test_a_new_file_is_opened_by_several_at_once(self, tmp_path: Path) -> None:
        start = threading.Barrier(4)

        def open_each(_: int) -> None:
            for number in range(100):
                start.wait(10)
                ImmediateConnection(tmp_path / f"{number}.db", timeout=BUSY_TIMEOUT_S).close()

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(open_each, range(4)))

    def test_rolls_back_tables_too(self, tmp_path: Path) -> None:
        engine = create_engine(f"sqlite:///{tmp_path / 'a.db'}")
        with engine.connect() as connection:
            connection.execute(text("CREATE TABLE t (x)"))
            connection.rollback()
        assert sqlalchemy.inspect(engine).get_table_names() == []

    def test_a_path_is_taken_as_it_is(self, tmp_path: Path) -> None:
        folder = tmp_path / "50% {of} it"
        folder.mkdir()
        url = f"sqlite:///{folder / 'a b.db'}"
        with Repository(url):
            optuna.create_study(storage=optuna_storage(url))
        assert (folder / "a b.db").is_file()

    def test_a_relative_path_stays_where_it_was(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert parse_url("sqlite:///a.db").database == str(tmp_path / "a.db")

    def test_folder_missing(self, tmp_path: Path) -> None:
        path = tmp_path / "nowhere" / "a.db"
        assert unusable(f"sqlite:///{path}") == (
            f"the database {path} cannot be used: unable to open database file; "
            "check that its folder exists and can be written, and that the file is a database"
        )

    def test_not_a_database(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("not a database, just notes\n" * 100)
        assert "file is not a database" in unusable(f"sqlite:///{path}")

    @pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite://relative/a.db"])
    def test_needs_a_file(self, url: str) -> None:
        assert "write sqlite:///autotune.db" in unusable(url)


class TestPostgresql:
    @pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
    def test_any_scheme_of_it(self, fresh_postgresql_url: str, scheme: str) -> None:
        url = fresh_postgresql_url.replace("postgresql", scheme, 1)
        with create_engine(url).connect() as connection:
            assert connection.dialect.driver == "psycopg"
        assert optuna_storage(url).engine.dialect.driver == "psycopg"

    def test_waits_ten_seconds_unless_told(self) -> None:
        assert parse_url("postgresql://host/db").query == {"connect_timeout": "10"}
        assert parse_url("postgresql://host/db?connect_timeout=3").query == {"connect_timeout": "3"}

    def test_unreachable(self) -> None:
        message = unusable(f"postgresql://me:{PASSWORD}@127.0.0.1:1/work")
        assert message.startswith("the database work on 127.0.0.1:1 cannot be used: ")
        assert "check that the server runs" in message
        assert PASSWORD not in message

    def test_no_such_database(self, postgresql_url: str) -> None:
        url = make_url(postgresql_url).set(database="elsewhere").render_as_string(hide_password=False)
        assert 'database "elsewhere" does not exist' in unusable(url)

    def test_wrong_password(self, fresh_postgresql_url: str) -> None:
        with create_engine(fresh_postgresql_url).begin() as connection:
            connection.execute(text("CREATE ROLE careful LOGIN PASSWORD 'right'"))
            rules = Path(str(connection.scalar(text("SHOW hba_file"))))
            kept = rules.read_text()
            rules.write_text("local all careful scram-sha-256\n" + kept)
            connection.execute(text("SELECT pg_reload_conf()"))
        try:
            url = make_url(fresh_postgresql_url).set(username="careful", password=PASSWORD)
            message = unusable(url.render_as_string(hide_password=False))
        finally:
            rules.write_text(kept)
            with create_engine(fresh_postgresql_url).begin() as connection:
                connection.execute(text("SELECT pg_reload_conf()"))
                connection.execute(text("DROP ROLE careful"))
        assert 'password authentication failed for user "careful"' in message
        assert PASSWORD not in message

    def test_may_not_create_tables(self, fresh_postgresql_url: str) -> None:
        with create_engine(fresh_postgresql_url).begin() as connection:
            connection.execute(text("CREATE ROLE guest LOGIN"))
        try:
            url = make_url(fresh_postgresql_url).set(username="guest")
            message = unusable(url.render_as_string(hide_password=False))
        finally:
            with create_engine(fresh_postgresql_url).begin() as connection:
                connection.execute(text("DROP ROLE guest"))
        assert "permission denied for schema public" in message
        assert "this user may not use them" in message

    def test_driver_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "psycopg", None)
        assert unusable(f"postgresql://me:{PASSWORD}@host/db") == (
            "the driver of postgresql is not installed; install autotune[postgres]"
        )


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("autotune.db", "is not a URL"),
        (f"postgresql://me:{PASSWORD}@host:port/db", "is not a URL"),
        (f"postgresql://me:{PASSWORD}@{PASSWORD}@host/db", "write %40"),
        (f"mysql://me:{PASSWORD}@host/db", "in SQLite or PostgreSQL, not in 'mysql'"),
        (f"postgresq://me:{PASSWORD}@host/db", "did you mean 'postgresql'"),
        (f"postgresql://127.0.0.1:1/db?password={PASSWORD}", "db on 127.0.0.1:1"),
        (f"postgresql://127.0.0.1:1/db?{PASSWORD}=x&password={PASSWORD}", "invalid"),
    ],
)
def test_passwords_are_never_shown(url: str, words: str) -> None:
    message = unusable(url)
    assert words in message
    assert PASSWORD not in message


class TestMappedErrors:
    URL = parse_url(f"postgresql://me:{PASSWORD}@host/db")

    @pytest.mark.parametrize(
        "kind",
        [
            kind
            for kind in vars(exc).values()
            if isinstance(kind, type)
            and issubclass(kind, exc.DBAPIError | exc.DisconnectionError | exc.TimeoutError)
        ],
    )
    def test_all_that_a_database_does(self, kind: type[exc.SQLAlchemyError]) -> None:
        error: exc.SQLAlchemyError
        if issubclass(kind, exc.DBAPIError):
            error = kind("SELECT 1", {}, Exception(f"lost {PASSWORD}\nDETAIL: more"))
        else:
            error = kind(f"lost {PASSWORD}\nDETAIL: more")
        with (
            pytest.raises(
                StorageUnavailable, match=r"^the database db on host cannot be used: lost \*\*\*; "
            ),
            mapped_errors(self.URL),
        ):
            raise error

    def test_what_the_driver_may_raise_arrives_as_one_of_them(self) -> None:
        for name in vars(sqlite3):
            kind = getattr(sqlite3, name)
            if isinstance(kind, type) and issubclass(kind, sqlite3.Error):
                with pytest.raises(StorageUnavailable), mapped_errors(self.URL):
                    raise exc.DBAPIError.instance("SELECT 1", {}, kind("no"), sqlite3.Error)

    @pytest.mark.parametrize(
        "cause",
        [
            exc.OperationalError("SELECT 1", {}, Exception("lost")),
            exc.PendingRollbackError("lost"),
            exc.InvalidRequestError("lost"),
        ],
    )
    def test_what_optuna_wraps(self, cause: exc.SQLAlchemyError) -> None:
        with pytest.raises(StorageUnavailable, match="lost"), mapped_errors(self.URL):
            raise optuna.exceptions.StorageInternalError("invalid data") from cause

    @pytest.mark.parametrize("kind", [exc.PendingRollbackError, exc.ResourceClosedError])
    def test_what_follows_from_a_lost_connection(self, kind: type[exc.SQLAlchemyError]) -> None:
        with pytest.raises(StorageUnavailable, match="lost"), mapped_errors(self.URL):
            raise kind("lost")

    @pytest.mark.parametrize("error", [exc.InvalidRequestError("x"), ValueError("x"), KeyboardInterrupt()])
    def test_our_own_faults_stay_what_they_are(self, error: BaseException) -> None:
        with pytest.raises(type(error)), mapped_errors(self.URL):
            raise error


def _open_both(url: str) -> list[str]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with Repository(url) as repository:
        storage = optuna_storage(url)
        study = optuna.create_study(storage=storage, study_name="shared", load_if_exists=True)
        study.tell(study.ask(), 1.0)
        return [job.name for job in repository.jobs()]


def test_a_new_database_is_opened_by_several_at_once(url: str, at_once: Crew) -> None:
    assert at_once(_open_both, url) == [[]] * 4
    study = optuna.load_study(study_name="shared", storage=optuna_storage(url))
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3]


def _ask(url: str) -> list[tuple[int, int]]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(
        study_name="shared", storage=optuna_storage(url), sampler=optuna.samplers.RandomSampler()
    )
    asked: list[tuple[int, int]] = []
    while True:
        trial = study.ask()
        choice = trial.suggest_int("choice", -1, 39)
        if "candidate" not in trial.user_attrs:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return asked
        asked.append((trial.number, choice))
        study.tell(trial, float(choice))


def test_no_enqueued_trial_is_asked_twice(url: str, at_once: Crew) -> None:
    study = optuna.create_study(storage=optuna_storage(url), study_name="shared")
    for choice in range(40):
        study.enqueue_trial({"choice": choice}, user_attrs={"candidate": True})
    asked = [each for answer in at_once(_ask, url) for each in answer]
    assert sorted(asked) == [(choice, choice) for choice in range(40)]


def test_tables_of_another_optuna(url: str) -> None:
    engine = optuna_storage(url).engine
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'v99.0.0'"))
    with pytest.raises(StorageUnavailable, match="made with another version of Optuna"):
        optuna_storage(url)


def test_deletes_a_study(url: str) -> None:
    storage = optuna_storage(url)
    study = optuna.create_study(storage=storage, study_name="gone")
    study.tell(study.ask({"x": optuna.distributions.IntDistribution(0, 1)}), 1.0)
    optuna.delete_study(study_name="gone", storage=storage)
    assert optuna.get_all_study_names(storage) == []


def test_optuna_is_imported_only_when_needed() -> None:
    code = "import sys, autotune.storage.repository; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
