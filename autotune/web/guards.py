"""What stands before every request: the names it may come by, its size, where it comes from."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autotune.web.problem import problem

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
CONTENT_SECURITY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""Unless a response says its own, as the dashboard's does."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True)
class SecurityHeaders:
    """Tell browsers what pages may do."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Content-Security-Policy", CONTENT_SECURITY)
            await send(message)

        await self.app(scope, receive, sending if scope["type"] == "http" else send)


@dataclass(frozen=True)
class KnownHosts:
    """Refuse requests under a name that is not the server's: a page elsewhere may have its own name point
    here (DNS rebinding).
    """

    app: ASGIApp
    hosts: Sequence[str]
    """Without ports; `*` lets all through."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "*" not in self.hosts:
            name = _split(f"//{Headers(scope=scope).get('host', '')}").hostname or ""
            if name.lower() not in self.hosts:
                detail = f"this server is not known as {name[:80]!r}; name it in AUTOTUNE_HOSTS"
                await problem(421, "misdirected", detail)(scope, receive, send)
                return
        await self.app(scope, receive, send)


@dataclass(frozen=True)
class SameSite:
    """Refuse what a page of another site has a browser send, for the browser would send our cookie along."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS and _is_cross_site(scope):
            detail = "a page of another site may not change anything here"
            await problem(403, "cross-site", detail)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _is_cross_site(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is not None and _split(origin).netloc != headers.get("host")


def _split(url: str) -> SplitResult:
    """The parts of `url`; empty ones where it is none."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


class _TooLarge(Exception):
    pass


@dataclass(frozen=True)
class BodyLimit:
    """Refuse bodies that are larger than anything this service is asked."""

    app: ASGIApp
    most_bytes: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = problem(413, "too-large", f"a body may have {self.most_bytes:,} bytes at most")
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal() or int(length) > self.most_bytes:
            await answer(scope, receive, send)
            return
        seen = 0

        async def receiving() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.most_bytes:
                raise _TooLarge
            return message

        async def sending(message: Message) -> None:
            if seen <= self.most_bytes:
                await send(message)

        with suppress(_TooLarge):
            await self.app(scope, receiving, sending)
        if seen > self.most_bytes:  # what the app made of half a body is not sent
            await answer(scope, receive, send)
