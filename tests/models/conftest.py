"""The truth about a configuration: what transformers builds from it, without memory."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest


@pytest.fixture(scope="session")
def meta_parameters() -> Callable[[Mapping[str, Any]], int]:
    """Number of parameters of the real model, tied weights once."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    def count(config: Mapping[str, Any]) -> int:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
        return sum(parameter.numel() for parameter in model.parameters())

    return count
