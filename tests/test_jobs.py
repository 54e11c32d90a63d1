import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import WrongStatus
from autotune.jobs import RESUMABLE, TRANSITIONS, JobSpec, JobStatus, check_transition
from trials.contract.message import ContractError


def fields(**changes: Any) -> dict[str, Any]:
    return {
        "name": "llama-8b.first_try",
        "model": {"name": "tiny", "hf_config": {"model_type": "llama"}},
        "shape": {"num_layers": 2},
        "gpus": "H100:8",
        "inventory": {"groups": []},
        "world_size": 8,
        "ceiling_bytes": 80 * 2**30,
        "space": {"precision": ["bf16", "fp32"]},
        **changes,
    }


class TestJobSpec:
    def test_json_both_ways(self) -> None:
        spec = JobSpec.parse(fields(baseline={"micro_batch_size": 6}, minutes=1.5, trials=3))
        assert JobSpec.parse(spec.to_json()) == spec
        assert JobSpec.parse(json.loads(spec.to_json())).baseline == {"micro_batch_size": 6}

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"name": "-rf"}, "name"),
            ({"name": "a/b"}, "name"),
            ({"name": "a" * 64}, "name"),
            ({"headroom": 1.0}, "headroom"),
            ({"headroom": -0.1}, "headroom"),
            ({"ceiling_bytes": 0}, "ceiling_bytes"),
            ({"world_size": 0}, "world_size"),
            ({"trials": 0}, "trials"),
            ({"minutes": 0}, "minutes"),
            ({"minutes": "NaN"}, "minutes"),
            ({"minutes": "Infinity"}, "minutes"),
            ({"seed": 2**32}, "seed"),
            ({"executor": "slurm"}, "known are ray, local"),
            ({"trails": 9}, "did you mean 'trials'"),
            ({"baseline": {"micro_batch": 1}}, "did you mean 'micro_batch_size'"),
        ],
    )
    def test_says_what_is_wrong(self, changes: dict[str, Any], words: str) -> None:
        with pytest.raises(ContractError, match=words):
            JobSpec.parse(fields(**changes))

    @given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True))
    def test_names_are_safe_in_paths_and_commands(self, name: str) -> None:
        assert JobSpec.parse(fields(name=name)).name == name

    @given(st.text(max_size=8).filter(lambda name: not name.isascii() or "\n" in name or " " in name))
    def test_other_names_are_refused(self, name: str) -> None:
        with pytest.raises(ContractError, match="name"):
            JobSpec.parse(fields(name=name))


class TestTransitions:
    def test_every_status_has_its_row(self) -> None:
        assert set(TRANSITIONS) == set(JobStatus)

    @pytest.mark.parametrize("final", [JobStatus.FINISHED, JobStatus.CANCELLED])
    def test_nothing_follows_a_final_status(self, final: JobStatus) -> None:
        for status in JobStatus:
            with pytest.raises(WrongStatus, match=f"a job that is {final} has ended, and stays so$"):
                check_transition(final, status)

    def test_a_job_lives(self) -> None:
        life = ["queued", "running", "paused", "running", "failed", "running", "running", "finished"]
        for old, new in pairwise(life):
            check_transition(JobStatus(old), JobStatus(new))

    def test_says_what_may_follow(self) -> None:
        with pytest.raises(WrongStatus, match=r"cannot become finished, only cancelled, failed, running$"):
            check_transition(JobStatus.QUEUED, JobStatus.FINISHED)

    def test_whatever_is_not_final_can_be_resumed_and_cancelled(self) -> None:
        assert {JobStatus.FINISHED, JobStatus.CANCELLED} == set(JobStatus) - RESUMABLE
        assert all(JobStatus.CANCELLED in TRANSITIONS[status] for status in RESUMABLE)
