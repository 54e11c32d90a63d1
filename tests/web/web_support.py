"""What tests of the server ask it, and by which name."""

from collections.abc import Callable

from starlette.testclient import TestClient

BASE_URL = "http://127.0.0.1:8000"
JSON = {"model": "llama-20m", "gpus": "cpu:2", "ceiling": "2GiB"}
JOB = {
    **JSON,
    "trials": 4,
    "settings": {"micro_batch_size": [1, 2, 3, 4], "precision": ["bf16", "fp32"], "sharding": ["ddp"]},
}

Open = Callable[..., TestClient]
