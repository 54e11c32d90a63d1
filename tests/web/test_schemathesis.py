"""Whatever the OpenAPI document allows, and much that it does not, is answered and never by a fault."""

from collections.abc import Iterator

import pytest
import schemathesis
from fakes import FakeExecutor
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from small_job import REQUEST, service_with
from web_support import work_on

from autotune.settings import Settings
from autotune.web.app import create_app

EXAMPLES = {"sqlite": 12, "postgresql": 6}
"""Of each operation."""
CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
STREAMS = "/v1/jobs/{name}/events"
"""Ends with its job, and so with no job that is made here."""


@pytest.fixture(scope="module", params=list(EXAMPLES))
def database(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(scope="module")
def schema(
    database: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[schemathesis.schemas.BaseSchema]:
    """Of an app with a finished job."""
    if database == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('schemathesis') / 'jobs.db'}"
    else:
        url = request.getfixturevalue("postgresql_url_of_module")
    with service_with(url, FakeExecutor()) as service:
        service.submit(REQUEST)
        work_on(url)
        app = create_app(service, Settings(storage=url, hosts="*"), open_to_all=True)
        yield schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.timeout(600)
def test_no_request_is_a_fault(schema: schemathesis.schemas.BaseSchema, database: str) -> None:
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 15
    for operation in operations:
        if operation.path != STREAMS:
            ask(operation, EXAMPLES[database])


def ask(operation: schemathesis.schemas.APIOperation, examples: int) -> None:
    @given(case=operation.as_strategy())
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    def answered(case: schemathesis.Case) -> None:
        case.validate_response(case.call(), checks=CHECKS)

    answered()
