"""Who may do what: a token by header for scripts, by cookie for pages."""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, quote

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from autotune.storage.tokens import Role
from autotune.web.guards import SAFE_METHODS
from autotune.web.problem import problem

COOKIE = "autotune_token"
COOKIE_S = 30 * 24 * 3600
PUBLIC = ("/healthz", "/readyz", "/login", "/logout", "/favicon.ico")
PUBLIC_FOLDER = "/assets/"
LOOKS_ONLY = ("/v1/plans",)
"""Posted to, since a question can be long; nothing changes."""
ADMINS_ONLY = "/v1/tokens"
MOST_TOKEN_CHARACTERS = 512

FindRole = Callable[[str], Role | None]


@dataclass(frozen=True)
class Keyring:
    """The tokens that open the server."""

    find: FindRole
    """Of tokens in the database."""
    own: str | None = None
    """The server's own, which allows everything."""
    open_to_all: bool = False
    """Without a token, where nobody but this machine can ask."""

    def role_of(self, token: str | None) -> Role | None:
        if token is None:
            return Role.ADMIN if self.open_to_all else None
        if len(token) > MOST_TOKEN_CHARACTERS:
            return None
        if self.own is not None and hmac.compare_digest(token.encode(), self.own.encode()):
            return Role.ADMIN
        return self.find(token)


@dataclass(frozen=True)
class RequireToken:
    """Let those through whose token allows what they ask for."""

    app: ASGIApp
    keyring: Keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or _is_public(scope["path"]):
            await self.app(scope, receive, send)
            return
        token = token_of(Headers(scope=scope))
        role = await run_in_threadpool(self.keyring.role_of, token)
        if role is None:
            await _refused(scope, token)(scope, receive, send)
            return
        needed = _needed(scope)
        if not role.allows(needed):
            detail = f"this token is of role {role.value}; that takes one of role {needed.value}"
            await problem(403, "forbidden", detail)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def token_of(headers: Headers) -> str | None:
    """What a request has to show; a header counts before a cookie."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value


def _is_public(path: str) -> bool:
    return path in PUBLIC or path.startswith(PUBLIC_FOLDER)


def _needed(scope: Scope) -> Role:
    path = scope["path"]
    if path == ADMINS_ONLY or path.startswith(f"{ADMINS_ONLY}/"):
        return Role.ADMIN
    looks = scope["method"] in SAFE_METHODS or path in LOOKS_ONLY
    return Role.READ if looks else Role.SUBMIT


def _refused(scope: Scope, token: str | None) -> Response:
    is_page = scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", "")
    if is_page:
        return RedirectResponse(f"/login?next={quote(scope['path'])}", 303)
    detail = "this token is not good, or no more" if token else "this server needs a token"
    headers = {"WWW-Authenticate": "Bearer"}
    return problem(401, "unauthorized", f"{detail}; send it as Authorization: Bearer TOKEN", headers=headers)


def logins(keyring: Keyring) -> APIRouter:
    """Where a page's form posts its token, and is rid of it."""
    router = APIRouter(include_in_schema=False)

    @router.post("/login")
    async def login(request: Request, next: str = "/") -> Response:
        fields = parse_qs((await request.body()).decode(errors="replace"))
        token = fields.get("token", [""])[0].strip()
        role = await run_in_threadpool(keyring.role_of, token)
        target = _own_page(fields.get("next", [next])[0])
        if role is None:
            return RedirectResponse(f"/login?wrong=1&next={quote(target)}", 303)
        response = RedirectResponse(target, 303)
        response.set_cookie(
            COOKIE,
            token,
            max_age=COOKIE_S,
            httponly=True,
            samesite="strict",
            # As the browser sees this server: a proxy with TLS asks it by HTTP.
            secure=request.headers.get("origin", "").startswith("https://"),
        )
        return response

    @router.post("/logout")
    async def logout() -> Response:
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE)
        return response

    return router


def _own_page(path: str) -> str:
    """`path` if it stays on this server."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"
