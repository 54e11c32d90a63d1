"""Earlier jobs on the same hardware teach the forecast; those on other hardware do not."""

from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
from fakes import FakeExecutor, speed_of
from small_job import REQUEST, ignore, service_with

from autotune.errors import BadInput
from autotune.hardware.inventory import Gpu
from autotune.hardware.parse import parse_inventory
from autotune.planner import explain, plan
from autotune.report.plan import Plan
from autotune.request import PlanRequest
from autotune.search.experience import calibration_on
from autotune.storage.repository import Repository
from trials.contract.constants import PROTOCOL_VERSION
from trials.contract.outcome import Outcome

PLAN = PlanRequest(
    model=REQUEST.model, gpus=REQUEST.gpus, ceiling=REQUEST.ceiling, settings=REQUEST.settings, top=100
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


def tune(url: str, executor: FakeExecutor | None = None) -> None:
    with service_with(url, executor or FakeExecutor()) as service:
        service.tune(REQUEST, ignore)


def test_a_plan_comes_close_to_what_was_measured(url: str) -> None:
    before = plan(replace(PLAN, storage=url))
    assert (before.calibrated_by, before.ranked) == (0, plan(PLAN).ranked)
    tune(url)
    after = plan(replace(PLAN, storage=url))
    assert after.calibrated_by >= 8

    def error(found: Plan) -> float:
        return mean(abs(row.tokens_per_second / speed_of(row.config) - 1) for row in found.ranked)

    print(error(after), error(before))
    assert error(after) < error(before) / 2
    for row in after.ranked:
        assert sum(row.memory.values()) == row.peak_bytes


def test_an_explanation_is_calibrated_as_the_plan_is(url: str) -> None:
    tune(url)
    request = replace(PLAN, storage=url)
    best = plan(request).ranked[0]
    found = explain(request, best.config.model_dump())
    assert found.peak_bytes == best.peak_bytes
    assert found.tokens_per_second == pytest.approx(best.tokens_per_second)
    assert max(sum(parts.values()) for parts in found.phases.values()) == pytest.approx(
        found.peak_bytes, rel=1e-6
    )
    assert sum(found.seconds.values()) == pytest.approx(found.step_s)


def test_other_hardware_and_failures_teach_nothing(url: str) -> None:
    tune(
        url,
        FakeExecutor(lambda config, _: Outcome.MEASURED if config.sharding == "ddp" else Outcome.CRASHED),
    )
    group = parse_inventory(REQUEST.gpus).group
    other: Gpu = replace(group.gpu, bandwidth_gb_per_s=99.0)
    with Repository(url) as repository:
        here = calibration_on(group, repository)
        assert len(calibration_on(replace(group, gpu=other), repository)) == 0
        assert len(calibration_on(parse_inventory("H100:8").group, repository)) == 0
    assert here.observations
    assert all(one.config.sharding == "ddp" for one in here.observations)


def test_measurements_by_another_protocol_teach_nothing(url: str) -> None:
    tune(url, FakeExecutor(protocol=PROTOCOL_VERSION - 1))
    with Repository(url) as repository:
        assert len(calibration_on(parse_inventory(REQUEST.gpus).group, repository)) == 0


def test_a_database_that_cannot_be_opened_is_a_note(tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"no database" * 1000)
    found = plan(replace(PLAN, storage=f"sqlite:///{broken}"))
    assert found.ranked == plan(PLAN).ranked
    assert found.notes[-1].startswith("not calibrated by earlier measurements: ")


def test_an_address_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="the address of the database is not a URL"):
        plan(replace(PLAN, storage="nonsense"))
