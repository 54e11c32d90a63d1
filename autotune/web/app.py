"""The app: routers, and what stands before them, the outermost last."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import metadata

import anyio.to_thread
from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware

from autotune.service import Service
from autotune.settings import Settings
from autotune.storage.engine import optuna_storage
from autotune.web import catalogue, events, jobs, tokens
from autotune.web.auth import Keyring, RequireToken, logins
from autotune.web.dashboard import ShownStorage, dashboard
from autotune.web.document import GUARDED, OTHERWISE, TOKEN_SHOWN, DocumentedApp
from autotune.web.guards import LOOPBACK_HOSTS, BodyLimit, KnownHosts, SameSite, SecurityHeaders
from autotune.web.methods import Heads
from autotune.web.metrics import Metrics, Timed, exposition, health
from autotune.web.pages import pages
from autotune.web.problem import Problems, answer_with_problems
from autotune.web.setup import Setup

ABOUT = """Submit a model and GPUs; watch real training probes search for the fastest configuration under a
memory ceiling; take it as files of the tool you train with."""


MOST_THREADS = 20
"""That answer requests: as many as there are connections to the database."""
LEAST_COMPRESSED_BYTES = 2048
COMPRESSION = 5
"""Of 9: half the time for a few percent of the bytes."""


@asynccontextmanager
async def _few_threads(_: FastAPI) -> AsyncIterator[None]:
    anyio.to_thread.current_default_thread_limiter().total_tokens = MOST_THREADS
    yield


def create_app(service: Service, settings: Settings, *, open_to_all: bool = False) -> FastAPI:
    """The whole service over HTTP.

    `open_to_all`: nobody needs a token; for a server that only this machine can reach. Raises
    StorageUnavailable where the database cannot be used.
    """
    service.open()
    app = DocumentedApp(
        title="autotune",
        version=metadata.version("autotune"),
        description=ABOUT,
        docs_url=None,  # its page fetches scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_few_threads,
    )
    app.state.setup = Setup(service, settings)
    own = settings.token.get_secret_value() if settings.token else None
    keyring = Keyring(service.role_of, own, open_to_all=open_to_all and own is None)
    metrics = Metrics()
    answer_with_problems(app)
    for router in (
        jobs.router,
        events.router,
        catalogue.router,
        tokens.router,
        exposition(service, metrics),
    ):
        app.include_router(router, dependencies=[TOKEN_SHOWN], responses=GUARDED)
    for router in (health(service), logins(keyring), pages()):
        app.include_router(router, responses=OTHERWISE)
    # Not mounted: at the root, it would take what other routes are asked by a wrong method.
    app.router.default = dashboard(optuna_storage(settings.storage, ShownStorage), service)
    app.add_middleware(RequireToken, keyring=keyring)
    app.add_middleware(SameSite)
    app.add_middleware(BodyLimit, most_bytes=settings.max_body_bytes)
    app.add_middleware(KnownHosts, hosts=(*LOOPBACK_HOSTS, *settings.known_hosts))
    app.add_middleware(Problems)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(GZipMiddleware, minimum_size=LEAST_COMPRESSED_BYTES, compresslevel=COMPRESSION)
    app.add_middleware(Timed, metrics=metrics)
    app.add_middleware(Heads)
    return app
