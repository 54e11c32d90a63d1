"""What other tools estimate of a configuration's memory."""

from collections.abc import Iterator
from functools import cache

from cases import Case

from trials.contract.config import TrainingConfig


def estimates(case: Case, config: TrainingConfig) -> dict[str, int]:
    """What DeepSpeed says of its stages 2 and 3, and accelerate of any training."""
    parameters, largest_layer, total_bytes = _sizes_for_estimators(case)
    return dict(_estimates(case, config, parameters, largest_layer, total_bytes))


def _estimates(
    case: Case, config: TrainingConfig, parameters: int, largest_layer: int, total_bytes: int
) -> Iterator[tuple[str, int]]:
    from accelerate.commands.estimate import estimate_training_usage
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    where = {"num_gpus_per_node": case.world_size, "num_nodes": 1, "cpu_offload": False}
    if config.sharding == "zero2":
        yield "deepspeed", estimate_zero2_model_states_mem_needs(parameters, **where)[1]
    if config.sharding == "zero3":
        yield (
            "deepspeed",
            estimate_zero3_model_states_mem_needs(
                parameters, largest_layer, cpu_offload_params=False, **where
            )[1],
        )
    precision = "float32" if config.precision == "fp32" else "bfloat16"
    yield "accelerate", max(estimate_training_usage(total_bytes, precision).values())


@cache
def _sizes_for_estimators(case: Case) -> tuple[int, int, int]:
    """Parameters, those of the largest layer as DeepSpeed counts them, and bytes as accelerate does."""
    from accelerate.utils import calculate_maximum_sizes
    from deepspeed.runtime.zero.stage3 import model_to_params
    from torch import device
    from transformers import AutoConfig, AutoModelForCausalLM

    config = dict(case.spec.hf_config or {})
    with device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
    _, largest_layer = model_to_params(model)
    total_bytes, _ = calculate_maximum_sizes(model)
    return case.shape.num_parameters, largest_layer, total_bytes
