"""One small job, for tests of the whole service on the in-memory executor."""

from typing import Any

from fakes import FakeExecutor

from autotune.request import TuneRequest
from autotune.service import Service

REQUEST = TuneRequest(
    model="llama-20m",
    gpus="cpu:2",
    name="job",
    ceiling="2GiB",
    settings={
        "micro_batch_size": (1, 2, 3, 4),
        "precision": ("bf16", "fp32"),
        "activation_checkpointing": ("none", "full"),
        "sharding": ("ddp", "fsdp"),
    },
    trials=8,
)


def changed(**changes: Any) -> TuneRequest:
    return TuneRequest(**{**vars(REQUEST), **changes})


def service_with(url: str, executor: FakeExecutor) -> Service:
    return Service(url, {"ray": lambda layout, address: executor, "local": lambda layout, address: executor})


def ignore(event: object) -> None:
    pass
