"""What the OpenAPI document says of every route: how errors look, how to show a token, what is answered."""

import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict

from autotune.web.problem import MEDIA_TYPE

EXAMPLES = Path(__file__).parent / "examples.json"
"""By schema what was answered about a job that really ran (`scripts/api_examples` writes it)."""
REFERENCES = "#/components/schemas/{model}"

TOKEN_SHOWN = Security(
    HTTPBearer(auto_error=False, scheme_name="token", description="Where the server asks for one.")
)
"""For the document alone: whether a token is good is decided before there is a route."""


class FieldError(BaseModel):
    field: str
    """Of the body, or a parameter's name."""
    message: str


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "urn:autotune:problem:bad-input",
                "title": "Unprocessable Content",
                "status": 422,
                "detail": "trials: Input should be greater than or equal to 1",
                "errors": [
                    {"field": "trials", "message": "Input should be greater than or equal to 1"},
                ],
            }
        }
    )

    type: str
    """A URN that tells which."""
    title: str
    status: int
    detail: str
    """One sentence."""
    errors: list[FieldError] = []
    """Each field with what is wrong with it, where it is one of those."""


Responses = dict[int | str, dict[str, Any]]


def _response(description: str) -> dict[str, Any]:
    schema = {"$ref": REFERENCES.format(model="Problem")}
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}


def problems(*statuses: int) -> Responses:
    """For `responses=` of routes that answer with these."""
    return {status: _response(HTTPStatus(status).phrase) for status in statuses}


OTHERWISE: Responses = {"default": _response("Any other error")}
"""Of all routes."""
GUARDED: Responses = {**problems(401, 403, 503), **OTHERWISE}
"""Of those that take a token."""


class DocumentedApp(FastAPI):
    """An app whose document says what `problems` refers to, and gives examples of answers."""

    def openapi(self) -> dict[str, Any]:
        """Return the document, which is made once."""
        if self.openapi_schema is None:
            schemas = super().openapi()["components"]["schemas"]
            schema = Problem.model_json_schema(ref_template=REFERENCES)
            schemas |= {**schema.pop("$defs"), "Problem": schema}
            for name, example in json.loads(EXAMPLES.read_text()).items():
                schemas[name]["example"] = example
        return super().openapi()
