"""The OpenAPI document: errors as they are answered, and how to show a token."""

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from starlette.testclient import TestClient

PUBLIC = ("/healthz", "/readyz")
PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
NAMED = "/v1/jobs/{name}"


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    told: dict[str, Any] = client.get("/openapi.json").json()
    return told


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def test_every_error_is_a_problem(document: dict[str, Any]) -> None:
    for path, operation in operations(document):
        errors = {status: said for status, said in operation["responses"].items() if status[0] in "45d"}
        assert "default" in errors, path
        for status, said in errors.items():
            assert said["content"] == PROBLEM, (path, status)
    schemas = document["components"]["schemas"]
    assert {"type", "title", "status", "detail"} == set(schemas["Problem"]["required"])
    assert "HTTPValidationError" not in schemas


def test_what_is_refused_and_why(document: dict[str, Any]) -> None:
    for path, operation in operations(document):
        told = set(operation["responses"])
        assert {"401", "403", "503"} <= told or path in PUBLIC, path
        assert {"404", "422"} <= told or not path.startswith(NAMED), path
    assert "409" in document["paths"]["/v1/jobs"]["post"]["responses"]
    assert "409" in document["paths"][f"{NAMED}/cancel"]["post"]["responses"]


def test_where_a_token_is_asked_for(document: dict[str, Any]) -> None:
    (name,) = document["components"]["securitySchemes"]
    scheme = document["components"]["securitySchemes"][name]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, operation in operations(document):
        assert operation.get("security") == (None if path in PUBLIC else [{name: []}]), path


def test_answers_have_examples_of_their_schemas(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    answers = [
        answer.get("content", {}).get("application/json", {}).get("schema", {})
        for _, operation in operations(document)
        for status, answer in operation["responses"].items()
        if status in ("200", "201")
    ]
    found = {schema["$ref"].rpartition("/")[2] for schema in answers if "$ref" in schema}
    assert {"Plan", "JobView", "JobList", "TrialList", "Answer", "JobExplanation"} < found
    for name in found - {"NewToken", "TokenList"}:
        whole = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.validate(schemas[name]["example"], whole)
