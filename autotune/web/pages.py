"""Pages."""

from fastapi import APIRouter


def pages() -> APIRouter:
    return APIRouter()
