"""`Setup`: what the handlers of one app share."""

from dataclasses import dataclass

from autotune.service import Service
from autotune.settings import Settings


@dataclass(frozen=True)
class Setup:
    service: Service
    settings: Settings
