"""From the reports of ranks to the result: who decides, what counts."""

import itertools
from typing import Any

import pytest
from probes import probe

from trials.contract.config import TrainingConfig
from trials.contract.merge import merge
from trials.contract.messages import PRECEDENCE, MemoryPeaks, RankReport, Versions
from trials.contract.outcome import VERDICTS, Outcome, Phase

REQUEST = probe(config={"micro_batch_size": 3, "sequence_length": 100, "gradient_accumulation_steps": 2})
TOKENS_PER_STEP = 2 * 3 * 2 * 100


def report(rank: int = 0, outcome: Outcome = Outcome.MEASURED, **fields: Any) -> RankReport:
    steps = (0.5,) if outcome == Outcome.MEASURED else ()
    defaults = {"phase": Phase.DONE, "step_s": steps, "memory": MemoryPeaks(device_bytes=100)}
    return RankReport(rank=rank, outcome=outcome, **defaults | fields)


def test_every_outcome_has_its_place_and_its_verdict() -> None:
    assert sorted(PRECEDENCE) == sorted(Outcome)
    assert set(VERDICTS) == set(Outcome)


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(PRECEDENCE, 2)))
@pytest.mark.parametrize("rank", [0, 1])
def test_the_cause_decides_over_its_consequences(first: Outcome, second: Outcome, rank: int) -> None:
    reports = [report(rank, first), report(1 - rank, second)]
    result = merge(REQUEST, reports, 1.0)
    assert (result.outcome, result.rank) == (first, rank)


def test_every_failure_decides_over_success() -> None:
    for outcome in set(Outcome) - {Outcome.MEASURED}:
        assert PRECEDENCE.index(outcome) < PRECEDENCE.index(Outcome.MEASURED)


def test_of_two_crashes_the_one_that_lost_no_peer_is_the_cause() -> None:
    lost = report(0, Outcome.CRASHED, reason="connection reset", lost_peer=True)
    fault = report(1, Outcome.CRASHED, reason="segmentation fault")
    result = merge(REQUEST, [lost, fault], 1.0)
    assert (result.rank, result.reason) == (1, "segmentation fault")


def test_of_several_that_failed_alike_the_first_rank_is_named() -> None:
    assert merge(REQUEST, [report(r, Outcome.CRASHED) for r in (2, 0, 1)], 1.0).rank == 0


def test_a_failure_brings_its_phase_its_reason_and_its_detail() -> None:
    failed = report(1, Outcome.CRASHED, phase=Phase.BUILD, reason="it broke", detail="Traceback")
    result = merge(REQUEST, [report(0), failed], 1.0)
    assert (result.phase, result.reason, result.detail) == (Phase.BUILD, "it broke", "Traceback")
    assert result.tokens_per_second is None


def test_where_all_measured_no_rank_decided() -> None:
    result = merge(REQUEST, [report(0), report(1)], 1.0)
    assert (result.outcome, result.rank, result.reason) == (Outcome.MEASURED, None, None)


def test_the_worst_rank_counts_for_memory() -> None:
    reports = [report(r, memory=MemoryPeaks(device_bytes=b)) for r, b in ((2, 10), (0, 30), (1, 20))]
    result = merge(REQUEST, reports, 1.0)
    assert result.peak_bytes == 30
    assert [peaks.device_bytes for peaks in result.memory] == [30, 20, 10]


def test_a_rank_that_could_not_say_what_it_held_is_left_out() -> None:
    reports = [report(0, memory=None), report(1, Outcome.CRASHED, memory=MemoryPeaks(device_bytes=20))]
    assert merge(REQUEST, reports, 1.0).peak_bytes == 20
    assert merge(REQUEST, reports[:1], 1.0).peak_bytes is None


def test_throughput_is_that_of_the_whole_job() -> None:
    speed = merge(REQUEST, [report(r, step_s=(0.5, 0.5, 0.5)) for r in (0, 1)], 1.0).tokens_per_second
    assert speed is not None
    assert speed.median == pytest.approx(TOKENS_PER_STEP / 0.5)


@pytest.mark.parametrize("outcome", Outcome)
def test_only_outcomes_with_a_speed_get_one(outcome: Outcome) -> None:
    result = merge(REQUEST, [report(0, outcome, step_s=(0.5,))], 1.0)
    assert (result.tokens_per_second is not None) == VERDICTS[outcome].has_speed


def test_a_probe_that_was_stopped_before_its_first_step_has_no_speed() -> None:
    assert merge(REQUEST, [report(0, Outcome.OUTPACED, step_s=())], 1.0).tokens_per_second is None


def test_facts_come_from_whichever_rank_knows_them() -> None:
    versions = Versions(device_name="cpu", python="3", torch="2", transformers="5", protocol=1)
    silent = report(0, Outcome.CRASHED)
    knowing = report(1, num_parameters=7, versions=versions, throttled="hot")
    result = merge(REQUEST, [silent, knowing], 1.0)
    assert (result.num_parameters, result.versions, result.throttled) == (7, versions, "hot")


def test_the_result_says_whose_it_is_and_how_long_it_took() -> None:
    result = merge(REQUEST, [report()], 12.5)
    assert (result.probe_id, result.seconds) == (REQUEST.probe_id, 12.5)


def test_the_tokens_of_a_step_are_counted_once_per_replica() -> None:
    config = TrainingConfig(micro_batch_size=2, sequence_length=10, tensor_parallel_size=2)
    assert config.tokens_per_step(8) == 2 * 10 * 4
