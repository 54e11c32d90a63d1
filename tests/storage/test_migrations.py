import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from autotune.errors import StorageUnavailable
from autotune.storage.engine import create_engine, optuna_storage
from autotune.storage.migrations import VERSION_TABLE, migrate
from autotune.storage.tables import Base


def test_migrations_make_the_tables_the_code_expects(url: str) -> None:
    engine = create_engine(url)
    migrate(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_name": lambda name, kind, parents: kind != "table" or name in Base.metadata.tables,
                "compare_type": True,
            },
        )
        assert compare_metadata(context, Base.metadata) == []
        tables = inspect(connection)
        for table in Base.metadata.tables.values():
            assert tables.get_pk_constraint(table.name)["name"] == table.primary_key.name
            assert {key["name"] for key in tables.get_foreign_keys(table.name)} == {
                constraint.name for constraint in table.foreign_key_constraints
            }


def test_leaves_the_tables_of_optuna_alone(url: str) -> None:
    engine = create_engine(url)
    migrate(engine)
    storage = optuna_storage(url)
    migrate(engine)
    with engine.connect() as connection:
        ours = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
        optunas = connection.scalar(text("SELECT version_num FROM alembic_version"))
    assert ours == "0005"
    assert optunas != ours
    assert storage.get_all_studies() == []


def test_a_newer_schema_is_refused_and_left_alone(url: str) -> None:
    engine = create_engine(url)
    migrate(engine)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(StorageUnavailable, match=r"written by a newer autotune \(schema 9999\); upgrade"):
        migrate(engine)
    with engine.connect() as connection:
        assert connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}")) == "9999"


def test_a_migration_that_fails_leaves_nothing(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        # The last table the first migration creates.
        connection.execute(text("CREATE TABLE autotune_recommendations (x INTEGER)"))
    with pytest.raises(StorageUnavailable, match="autotune_recommendations"):
        migrate(engine)
    assert inspect(engine).get_table_names() == ["autotune_recommendations"]
