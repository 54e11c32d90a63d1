"""Pages for browsers: a frame from here, which JavaScript fills from /v1."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.templating import Jinja2Templates
from starlette.responses import RedirectResponse
from starlette.staticfiles import StaticFiles

from autotune.jobs import JobStatus
from autotune.report.vocabulary import (
    ALWAYS,
    CAVEATS,
    EVIDENCE,
    HEADINGS,
    NEVER_UNSAID,
    OUTCOMES,
    SAID,
    TERMS,
    USUAL,
)
from autotune.search.confirmation import CONTENDERS, ROUNDS
from autotune.web.auth import COOKIE

HERE = Path(__file__).parent
PLOTLY = "plotly.min.js"


@dataclass(frozen=True)
class Words:
    """What the terminal calls things too."""

    headings: list[tuple[str, str]]
    """Fields of TrainingConfig with their names, in the order of reading."""
    said: dict[str, str]
    """How a field is said in a line of words; `{}` stands for its value."""
    usual: dict[str, Any]
    """Values that go without saying."""
    always: list[str]
    """Fields that every table of configurations tells."""
    never_unsaid: list[str]
    caveats: list[tuple[str, str, str]]
    evidence: dict[str, str]
    outcomes: dict[str, str]
    terms: dict[str, str]
    rounds: int
    """Confirmations of each contender."""
    contenders: int
    """Leading configurations that are confirmed, besides the baseline."""


def words() -> Words:
    return Words(
        headings=[(field, long) for field, (long, _) in HEADINGS.items()],
        said=SAID,
        usual=USUAL.model_dump(mode="json"),
        always=sorted(ALWAYS),
        never_unsaid=sorted(NEVER_UNSAID),
        caveats=list(CAVEATS),
        evidence=EVIDENCE,
        outcomes=OUTCOMES,
        terms=TERMS,
        rounds=ROUNDS,
        contenders=CONTENDERS,
    )


def pages() -> APIRouter:
    """Every page, and what pages load; `POST /login` is not theirs."""
    router = APIRouter(include_in_schema=False)
    templates = Jinja2Templates(HERE / "templates")
    templates.env.globals["words"] = asdict(words())
    templates.env.globals["statuses"] = [status.value for status in JobStatus]
    own = StaticFiles(directory=HERE / "assets")
    plotly = StaticFiles(packages=[("plotly", "package_data")])

    def page(request: Request, template: str, **data: str) -> Response:
        known = {"logged_in": COOKIE in request.cookies, **data}
        return templates.TemplateResponse(request, template, known, headers={"Cache-Control": "no-cache"})

    @router.get("/")
    def root() -> Response:
        return RedirectResponse("/jobs")

    @router.get("/jobs")
    def jobs(request: Request) -> Response:
        return page(request, "jobs.html")

    @router.get("/jobs/new")
    def new_job(request: Request) -> Response:
        return page(request, "new_job.html")

    @router.get("/jobs/compare")
    def compare(request: Request, a: str = "", b: str = "") -> Response:
        return page(request, "compare.html", a=a, b=b)

    @router.get("/jobs/{name}")
    def job(request: Request, name: str) -> Response:
        return page(request, "job.html", name=name)

    @router.get("/login")
    def login(request: Request, wrong: str = "", next: str = "/") -> Response:
        return page(request, "login.html", wrong=wrong, next=next)

    @router.get("/assets/{file}")
    async def asset(request: Request, file: str) -> Response:
        files = plotly if file == PLOTLY else own
        response = await files.get_response(file, request.scope)
        # Modules name each other without a version, so a browser has to ask whether there is a newer one.
        response.headers["Cache-Control"] = "no-cache"
        return response

    return router
