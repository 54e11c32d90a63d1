"""Errors as application/problem+json (RFC 9457)."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from autotune.errors import AutotuneError
from autotune.problems import PREFIX, status_of, type_of

MEDIA_TYPE = "application/problem+json"
MOST_FIELDS = 20


def problem(
    status: int,
    name: str,
    detail: str,
    errors: Sequence[Mapping[str, str]] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """`name` ends the type's URN; `errors` name fields and say what is wrong with each."""
    body: dict[str, Any] = {
        "type": f"{PREFIX}{name}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    if errors:
        body["errors"] = list(errors)
    return JSONResponse(body, status, dict(headers or {}), MEDIA_TYPE)


def answer_with_problems(app: FastAPI) -> None:
    """Have `app` answer every exception with one."""
    app.add_exception_handler(AutotuneError, _of_ours)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _of_a_fault)


async def _of_ours(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, AutotuneError)
    return problem(status_of(error), type_of(error).removeprefix(PREFIX), str(error))


async def _of_validation(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"field": ".".join(map(str, one["loc"][1:])) or str(one["loc"][0]), "message": one["msg"]}
        for one in error.errors()[:MOST_FIELDS]
    ]
    first = errors[0]
    return problem(422, "bad-input", f"{first['field']}: {first['message']}", errors)


async def _of_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    name = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    return problem(error.status_code, name, str(error.detail), headers=error.headers)


async def _of_a_fault(_: Request, error: Exception) -> JSONResponse:
    # Its words may hold anything; they are in the log.
    return problem(500, "fault", f"a fault of autotune's: {type(error).__name__}; the server's log says more")
