"""The in-memory executor keeps what the Protocol promises."""

from contracts.executor import ExecutorContract
from fakes import FakeExecutor

from trials.contract.messages import ProbeRequest


class TestFakeExecutor(ExecutorContract):
    @classmethod
    def open(cls, num_slots: int) -> FakeExecutor:
        return FakeExecutor(num_slots=num_slots)

    @classmethod
    def is_training(cls, executor: FakeExecutor, request: ProbeRequest) -> bool:
        return executor.is_running(request.probe_id)
