"""Methods of requests: HEAD, which every page answers, and those that a path takes."""

from dataclasses import dataclass

from fastapi import Request
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True)
class Heads:
    """Answers HEAD as GET, without the body; all that is inside sees a GET."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                # The end, whatever is to come: who streams learns by it that nobody listens.
                await send({"type": "http.response.body", "body": b""})

        await self.app({**scope, "method": "GET"}, receive, sending)


def taken_methods(request: Request) -> str:
    """Those that some route takes at the path of a request, as `Allow` names them."""
    taken = [
        method
        for method in METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]
    return ", ".join("GET, HEAD" if method == "GET" else method for method in taken)
