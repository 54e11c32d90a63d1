"""Configurations that were probed, and the probes that make them."""

import itertools
import json
import random
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from cases import CASES, PLAIN, Case
from estimators import estimates

from autotune.execution.executor import Executor, Layout
from autotune.executors import EXECUTORS
from autotune.forecast.calibration import Observation, outside_bytes
from autotune.forecast.forecast import Forecast
from autotune.hardware.detect import detect
from autotune.hardware.inventory import NodeGroup
from autotune.hardware.parse import parse_inventory
from trials.command import BadInput
from trials.contract.config import TrainingConfig
from trials.contract.messages import DeviceKind, ProbeRequest, ProbeResult
from trials.trace import trace

RECORDED = {
    "probe_id",
    "outcome",
    "phase",
    "tokens_per_second",
    "peak_bytes",
    "memory",
    "versions",
    "seconds",
}
"""Of each probe's result."""


@dataclass(frozen=True)
class Row:
    """One configuration, probed."""

    seed: int
    """Of the random configurations."""
    option: str
    case: Case
    config: TrainingConfig
    result: ProbeResult
    traced_bytes: int | None
    """None where the engine cannot be traced."""
    estimates: dict[str, int]
    """Bytes of one rank by what other tools estimate, where they do."""

    @classmethod
    def of(
        cls,
        seed: int,
        option: str,
        case: Case,
        config: TrainingConfig,
        result: ProbeResult,
        *,
        is_traced: bool = True,
    ) -> "Row":
        traced_bytes = traced(case.request(config, 0)) if is_traced else None
        return cls(seed, option, case, config, result, traced_bytes, estimates(case, config))

    @property
    def forecast(self) -> Forecast:
        return self.case.forecast([self.config])

    @property
    def observation(self) -> Observation:
        spec = self.case.spec
        found = Observation.of(spec.digest, self.case.world_size, self.config, self.result, self.forecast)
        assert found is not None
        return found

    @property
    def device_bytes(self) -> int:
        assert self.result.peak_bytes is not None
        return self.result.peak_bytes

    @property
    def tensor_bytes(self) -> int:
        worst = max(self.result.memory, key=lambda peaks: peaks.device_bytes)
        return worst.device_bytes - outside_bytes(worst, int(self.forecast.parts["fixed"][0]))

    @property
    def tokens_per_second(self) -> float:
        assert self.result.tokens_per_second is not None
        return self.result.tokens_per_second.median

    def to_dict(self) -> dict[str, Any]:
        predicted = self.forecast
        return {
            "seed": self.seed,
            "option": self.option,
            "model": self.case.name,
            "inventory": json.loads(self.case.inventory),
            "config": self.config.model_dump(mode="json"),
            "measured": {"tensor_bytes": self.tensor_bytes, "device_bytes": self.device_bytes},
            "forecast": {
                "tensor_bytes": int(predicted.reserved_bytes[0]),
                "device_bytes": int(predicted.device_bytes[0]),
                "tokens_per_second": round(float(predicted.tokens_per_second[0]), 1),
            },
            "traced_bytes": self.traced_bytes,
            "estimates": self.estimates,
            "result": self.result.model_dump(mode="json", include=RECORDED),
        }


@dataclass
class Probes:
    """Makes rows, as long as there is time."""

    device: DeviceKind
    minutes: float
    is_traced: bool
    started: float = field(default_factory=time.monotonic)

    def plain(self, rows_per_case: int, seed: int) -> Iterator[Row]:
        rng = random.Random(seed)
        for world_size in CASES[self.device].worlds:
            models = [(PLAIN, name) for name in CASES[self.device].models]
            yield from self._on(1, world_size, models, rows_per_case, seed, rng)

    def of_options(
        self, rows_per_option: int, known: Collection[tuple[str, int]], seed: int
    ) -> Iterator[Row]:
        """Of each option and world that is not `known`."""
        rng = random.Random(seed)
        cases = CASES[self.device]
        for num_nodes, world_size in itertools.product((1, 2), sorted(cases.shardings)):
            here = [
                (name, option.model or cases.models[0])
                for name, option in cases.options.items()
                if option.num_nodes == num_nodes
                and world_size in option.worlds
                and (name, world_size) not in known
            ]
            yield from self._on(num_nodes, world_size, here, rows_per_option, seed, rng)

    def _on(
        self,
        num_nodes: int,
        world_size: int,
        options: Sequence[tuple[str, str]],
        count: int,
        seed: int,
        rng: random.Random,
    ) -> Iterator[Row]:
        """So many rows of each option and model."""
        if not count or not options:
            return
        ranks = world_size // num_nodes
        group = self._group(num_nodes, ranks)
        with _executor(Layout(self.device, num_nodes, ranks, 1)) as executor:
            for option, name in options:
                case = Case.of(name, group)
                for number, config in enumerate(islice(case.legal_configs(rng, option), count)):
                    if time.monotonic() - self.started > self.minutes * 60:
                        print(f"no time left for {option or name}")
                        return
                    request = case.request(config, number)
                    result = executor.submit(request).result()
                    if result.outcome != "measured":
                        print(f"left out: {option} {config}: {result.outcome}: {result.reason}", flush=True)
                        continue
                    yield Row.of(seed, option, case, config, result, is_traced=self.is_traced)

    def _group(self, num_nodes: int, ranks_per_node: int) -> NodeGroup:
        if self.device == "cpu":
            return parse_inventory(f"{num_nodes}x{ranks_per_node}xcpu").group
        found = detect().group
        assert found.gpu.kind == "cuda", "no GPU here"
        return replace(found, num_nodes=num_nodes, gpus_per_node=ranks_per_node)


@contextmanager
def _executor(layout: Layout) -> Iterator[Executor]:
    """This machine's, or that of a Ray cluster with several nodes on it."""
    if layout.num_nodes == 1:
        with EXECUTORS["local"](layout, None) as executor:
            yield executor
        return
    from ray.cluster_utils import Cluster

    node = {"num_cpus": layout.ranks_per_node, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    for _ in range(layout.num_nodes - 1):
        cluster.add_node(**node)
    try:
        with EXECUTORS["ray"](layout, cluster.address) as executor:
            yield executor
    finally:
        cluster.shutdown()


def recorded(stored: dict[str, Any]) -> Iterator[Row]:
    for row in stored["rows"]:
        case = Case(row["model"], json.dumps(row["inventory"]))
        result = ProbeResult.parse(row["result"])
        yield Row.of(row["seed"], row["option"], case, TrainingConfig.parse(row["config"]), result)


def traced(request: ProbeRequest) -> int | None:
    try:
        return trace(request).peak_bytes
    except BadInput:
        return None
