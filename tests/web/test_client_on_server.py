"""The client against the app behind a real socket, over restarts too."""

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvicorn
from starlette.testclient import TestClient

import autotune
from autotune.errors import BadInput, NameInUse, NoSuchJob, NothingMeasured, UserError
from autotune.service import Service

TOKEN = "a-token"
SETTINGS = {"micro_batch_size": [1, 2, 3, 4], "precision": ["bf16", "fp32"], "sharding": "ddp"}


@dataclass
class Running:
    """The app on a port that stays the same."""

    app: object
    port: int
    server: uvicorn.Server | None = None
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        config = uvicorn.Config(
            self.app, port=self.port, log_level="critical", lifespan="off", timeout_graceful_shutdown=1
        )
        self.server = uvicorn.Server(config)
        self.threads.append(threading.Thread(target=self.server.run))
        self.threads[-1].start()

    def stop(self) -> None:
        assert self.server is not None
        self.server.should_exit = True
        self.threads[-1].join()


@pytest.fixture
def running(open_server: Callable[..., TestClient]) -> Iterator[Running]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = Running(open_server(open_to_all=False, token=TOKEN).app, port)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def asking(running: Running) -> Iterator[autotune.Client]:
    with autotune.Client(f"http://127.0.0.1:{running.port}", TOKEN) as asking:
        yield asking


def submit(asking: autotune.Client, name: str, key: str | None = None) -> None:
    job = asking.submit(
        "llama-20m", "cpu:2", name=name, ceiling="2GiB", trials=4, set=SETTINGS, idempotency_key=key
    )
    assert (job.name, job.status, job.model) == (name, "queued", "llama-20m")


def test_a_job_from_its_submission_to_its_files(
    asking: autotune.Client, service: Service, work: Callable[[], None], tmp_path: Path
) -> None:
    submit(asking, "mine", key="once")
    submit(asking, "mine", key="once")
    with pytest.raises(NameInUse):
        submit(asking, "mine")
    with pytest.raises(NothingMeasured):
        asking.explanation("mine")
    work()
    told = list(asking.events("mine"))
    assert [event.id for event in told] == [
        event.id for event in service.events_after(service.job("mine"), 0)
    ]
    assert {event.kind for event in told} == {"status", "started", "probe_started", "probe_ended", "standing"}
    assert asking.wait("mine") == service.answer("mine")
    assert asking.trials("mine") == service.trials("mine")
    assert asking.explanation("mine") == service.explain("mine")
    assert asking.job("mine") == service.view("mine")
    written = asking.download("mine", "torchrun", tmp_path / "files")
    assert {path.name: path.read_text() for path in written} == service.export_files("mine", "torchrun")
    with pytest.raises(BadInput):
        asking.cancel("mine")


def test_jobs_in_pages_and_one_that_is_given_up(asking: autotune.Client) -> None:
    for number in range(3):
        submit(asking, f"job-{number}")
    assert asking.cancel("job-1").status == "cancelled"
    assert [job.name for job in asking.jobs(page=2)] == ["job-2", "job-1", "job-0"]
    assert [job.name for job in asking.jobs(status="cancelled", named="job")] == ["job-1"]
    with pytest.raises(NoSuchJob, match="there is no job named 'job-9'"):
        asking.resume("job-9")


def test_a_plan_is_the_same_here_and_there(asking: autotune.Client, url: str) -> None:
    model = {"model_type": "gpt2", "n_layer": 3}
    gpus = {"nodes": [{"gpus_per_node": 2, "gpu": "H100"}]}
    space = {"dimensions": {"micro_batch_size": {"max": 4}, "sharding": ["ddp", "fsdp"]}}
    question = {"model": model, "gpus": gpus, "space": space, "set": {"sharding": "fsdp"}, "headroom": "10%"}
    assert asking.plan(**question, top=3) == autotune.plan(**question, top=3, storage=url)


def test_who_has_no_token_is_told(running: Running) -> None:
    with (
        autotune.Client(f"http://127.0.0.1:{running.port}", "another") as asking,
        pytest.raises(UserError, match="this token is not good"),
    ):
        asking.job("mine")


def test_events_and_questions_outlive_a_restart(
    asking: autotune.Client, running: Running, service: Service, work: Callable[[], None]
) -> None:
    submit(asking, "mine")
    happening = asking.events("mine")
    told = [next(happening)]
    running.stop()
    running.start()
    submit(asking, "other")
    work()
    told += happening
    assert [event.id for event in told] == [
        event.id for event in service.events_after(service.job("mine"), 0)
    ]
    assert told[-1].data["status"] == "finished"
