"""/v1/jobs: submit, look, cancel, go on, take what was found."""

import io
import zipfile
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import PlainTextResponse

from autotune.errors import NotFound
from autotune.jobs import JobStatus
from autotune.report.answer import Answer
from autotune.report.explanation import JobExplanation
from autotune.report.job_view import JobView
from autotune.web.bodies import JobBody
from autotune.web.document import problems
from autotune.web.setup import MOST_ID, Here, Name, Wired
from autotune.web.views import CandidateList, Export, ExportList, JobList, TrialList

MOST_KEY_CHARACTERS = 200
MOST_JOBS, MOST_TRIALS, MOST_CANDIDATES = 200, 1000, 2000

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], responses=problems(404, 409, 422))


Format = Annotated[str, Path(pattern=r"^[a-z]{1,32}$", description="As GET …/exports lists them.")]
TrialNumber = Annotated[int, Path(ge=0, le=10**9)]
FileName = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


@router.post("", status_code=201, summary="Submit a job")
def submit(
    body: JobBody,
    response: Response,
    setup: Here,
    idempotency_key: Annotated[
        str | None,
        Header(
            max_length=MOST_KEY_CHARACTERS,
            pattern=r"^[!-~]+$",
            description="The same submission sent again with the same key gives the job that it made.",
        ),
    ] = None,
) -> JobView:
    """Record a job for a worker to take; what is wrong with it is said now, before it exists."""
    settings = setup.settings
    body.require_known_model(settings.allowed_factories)
    job = setup.service.submit(body.request(settings.ray_address, settings.executor), idempotency_key)
    response.headers["Location"] = f"/v1/jobs/{job.name}"
    return setup.service.view(job.name)


@router.get("", summary="List jobs")
def list_jobs(
    service: Wired,
    limit: Annotated[int, Query(ge=1, le=MOST_JOBS)] = 50,
    before: Annotated[int | None, Query(ge=0, le=MOST_ID, description="`next` of a page.")] = None,
    status: JobStatus | None = None,
    q: Annotated[str, Query(max_length=63, pattern=r"^[^\x00]*$", description="Part of a name.")] = "",
) -> JobList:
    """Latest first."""
    found = service.summaries(limit=limit + 1, before=before, status=status, named=q)
    page = found[:limit]
    return JobList(jobs=page, next=str(page[-1].id) if len(found) > limit else None)


@router.get("/{name}", summary="One job")
def job(name: Name, service: Wired) -> JobView:
    return service.view(name)


@router.get("/{name}/recommendation", summary="Its answer")
def recommendation(name: Name, service: Wired) -> Answer:
    """As it stands; `recommendation` is null where there is none yet, or nothing to recommend."""
    return service.answer(name)


@router.get("/{name}/trials", summary="Its trials")
def trials(
    name: Name,
    service: Wired,
    after: Annotated[int, Query(ge=-1, le=10**9, description="`next` of a page.")] = -1,
    limit: Annotated[int, Query(ge=1, le=MOST_TRIALS)] = 200,
) -> TrialList:
    """In order, with what became of each and why."""
    rest = [row for row in service.trials(name) if row.number > after]
    page = rest[:limit]
    return TrialList(trials=page, next=page[-1].number if len(rest) > limit else None)


@router.get(
    "/{name}/trials/{number}/log",
    summary="What is kept of a trial's probes",
    response_class=PlainTextResponse,
)
def trial_log(name: Name, number: TrialNumber, service: Wired) -> PlainTextResponse:
    return PlainTextResponse(service.trial_log(name, number))


@router.get("/{name}/log", summary="What its running probe says", response_class=PlainTextResponse)
def log(name: Name, service: Wired) -> PlainTextResponse:
    """How far each rank has come, and what it printed last; empty where no probe runs."""
    return PlainTextResponse(service.running_log(name))


@router.get("/{name}/candidates", summary="Forecasts of what it may try")
def candidates(
    name: Name, service: Wired, limit: Annotated[int, Query(ge=1, le=MOST_CANDIDATES)] = 300
) -> CandidateList:
    return CandidateList(candidates=service.candidates(name, limit))


@router.get("/{name}/explanation", summary="Why it recommends what it does")
def explanation(name: Name, service: Wired) -> JobExplanation:
    """409 while there is nothing to explain."""
    return service.explain(name)


@router.get("/{name}/exports", summary="Tools whose files it can give")
def exports(name: Name, service: Wired) -> ExportList:
    formats = service.exports(name)
    return ExportList(formats=[Export(format=one, files=sorted(files)) for one, files in formats.items()])


@router.get(
    "/{name}/exports/{format}",
    summary="The recommendation as files of a tool",
    response_class=Response,
    responses={200: {"content": {"application/zip": {}}}},
)
def export(name: Name, format: Format, service: Wired) -> Response:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file, text in service.export_files(name, format).items():
            info = zipfile.ZipInfo(f"{name}-{format}/{file}")
            info.external_attr = (0o755 if file.endswith(".sh") else 0o644) << 16
            archive.writestr(info, text)
    headers = {"Content-Disposition": f'attachment; filename="{name}-{format}.zip"'}
    return Response(buffer.getvalue(), media_type="application/zip", headers=headers)


@router.get("/{name}/exports/{format}/{file}", summary="One of these files", response_class=PlainTextResponse)
def export_file(name: Name, format: Format, file: FileName, service: Wired) -> PlainTextResponse:
    files = service.export_files(name, format)
    if file not in files:
        raise NotFound(f"the {format} export has no file {file!r}; it has {', '.join(sorted(files))}")
    headers = {"Content-Disposition": f'attachment; filename="{file}"'}
    return PlainTextResponse(files[file], headers=headers)


@router.post("/{name}/cancel", summary="Give it up")
def cancel(name: Name, service: Wired) -> JobView:
    """Whoever drives it finds out with its next write, and ends the running probe."""
    service.cancel(name)
    return service.view(name)


@router.post("/{name}/resume", summary="Go on with it")
def resume(name: Name, service: Wired) -> JobView:
    """A job that is paused or has failed waits for a worker again."""
    service.requeue(name)
    return service.view(name)
