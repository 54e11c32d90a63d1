"""Errors as application/problem+json (RFC 9457)."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autotune.errors import AutotuneError, BadInput, StorageUnavailable
from autotune.problems import PREFIX, status_of, type_of
from autotune.web.methods import taken_methods

MEDIA_TYPE = "application/problem+json"
MOST_FIELDS = 20
OPTIONS: Mapping[str, str] = MappingProxyType({"set": "settings"})
"""Options of the command line that have another name than the field they are for."""
_OPTION = re.compile(r"--([a-z][a-z-]*)")

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class Problems:
    """Answers exceptions with problems, whether a handler raises them or what stands before it.

    An answer that has begun is broken off.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def sending(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception as error:
            if has_begun or scope["type"] != "http":
                raise
            answer = _of_ours(error) if isinstance(error, AutotuneError) else _of_a_fault(error)
            await answer(scope, receive, send)


def answer_with_problems(app: FastAPI) -> None:
    """Have `app` answer FastAPI's exceptions, and Starlette's, with problems."""
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)


def _of_ours(error: AutotuneError) -> JSONResponse:
    name = type_of(error).removeprefix(PREFIX)
    if isinstance(error, StorageUnavailable):
        # Its words tell where the database is, and tokens are looked up in it: anybody may be asking.
        logger.warning("%s", error)
        return problem(status_of(error), name, "the database does not answer; the server's log says more")
    words = in_fields(str(error))
    field = error.field if isinstance(error, BadInput) else None
    return problem(status_of(error), name, words, [{"field": field, "message": words}] if field else ())


def in_fields(words: str) -> str:
    """A sentence of ours with the names of fields in place of those of the command line's options."""
    return _OPTION.sub(lambda found: OPTIONS.get(found[1], found[1].replace("-", "_")), words)


def _of_a_fault(error: Exception) -> JSONResponse:
    # Its words may hold anything.
    logger.error("a fault", exc_info=error)
    return problem(500, "fault", f"a fault of autotune's: {type(error).__name__}; the server's log says more")


async def _of_validation(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = [
        {"field": ".".join(map(str, one["loc"][1:])) or str(one["loc"][0]), "message": one["msg"]}
        for one in error.errors()[:MOST_FIELDS]
    ]
    first = errors[0]
    return problem(422, "bad-input", f"{first['field']}: {first['message']}", errors)


async def _of_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    name = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
    # A route that was asked by a wrong method knows its own alone, and its path may have others.
    headers = {"Allow": taken_methods(request)} if error.status_code == 405 else error.headers
    return problem(error.status_code, name, str(error.detail), headers=headers)
