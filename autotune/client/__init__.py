"""The service over HTTP from Python: what `autotune serve` answers, as the messages it is."""

from autotune.client.client import Client
from autotune.client.events import JobEvent

__all__ = ["Client", "JobEvent"]
