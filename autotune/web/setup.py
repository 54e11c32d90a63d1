"""`Setup`: what the handlers of one app share, and how they come by it."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request

from autotune.service import Service
from autotune.settings import Settings


@dataclass(frozen=True)
class Setup:
    service: Service
    settings: Settings


def setup_of(request: Request) -> Setup:
    found: Setup = request.app.state.setup
    return found


def service_of(request: Request) -> Service:
    return setup_of(request).service


MOST_ID = 2**31 - 1
"""Ids of jobs and events are 32 bits in PostgreSQL, which takes a larger figure for a fault."""

Here = Annotated[Setup, Depends(setup_of)]
Wired = Annotated[Service, Depends(service_of)]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
"""Of a job, or of a token."""
Name = Annotated[str, Path(pattern=NAME, description="As it was named when it was made.")]
