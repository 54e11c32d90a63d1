"""/v1/tokens: who may use the server, for those of role admin."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from autotune.storage.tokens import Role
from autotune.web.auth import ADMINS_ONLY
from autotune.web.document import problems
from autotune.web.setup import NAME, Name, Wired

router = APIRouter(prefix=ADMINS_ONLY, tags=["tokens"], responses=problems(404, 409, 422))


class TokenBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[
        str, Field(pattern=NAME, description="Whose it is, or what it is for.", examples=["ana", "nightly"])
    ]
    role: Annotated[Role, Field(description="What it allows; each allows what is before it.")] = Role.SUBMIT


class Token(BaseModel):
    name: str
    role: Role
    created_at: datetime


class NewToken(BaseModel):
    name: str
    role: Role
    token: str
    """Told here, and never again."""


class TokenList(BaseModel):
    tokens: list[Token]
    """Oldest first."""


@router.get("", summary="List tokens")
def tokens(service: Wired) -> TokenList:
    """Without what opens anything: of that, the database keeps a digest alone."""
    found = [Token(name=one.name, role=one.role, created_at=one.created_at) for one in service.tokens()]
    return TokenList(tokens=found)


@router.post("", status_code=201, summary="Make a token")
def make(body: TokenBody, service: Wired) -> NewToken:
    return NewToken(name=body.name, role=body.role, token=service.create_token(body.name, body.role))


@router.delete("/{name}", status_code=204, summary="Have a token open nothing any more")
def revoke(name: Name, service: Wired) -> None:
    service.revoke_token(name)
