"""`Case`: everything the forecast's terms are functions of, as columns of numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.errors import BadInput
from autotune.forecast.constants import ForecastConstants
from autotune.forecast.formats import AUTOCAST, HALF, RATES, Floats, FormatColumns, Indices, format_table
from autotune.forecast.sizes import Sizes
from autotune.hardware.inventory import NodeGroup
from autotune.models.shape import ModelShape
from search_spaces.columns import Columns, Mask
from trials.contract.config import Precision, choices


@dataclass(frozen=True, eq=False)
class Case:
    """One model on one group of nodes under many configurations.

    Arrays have shape (n,), or (1,) where all rows agree, which broadcasting makes free. Counts are
    floats, so that they multiply without overflow.
    """

    shape: ModelShape
    group: NodeGroup
    world_size: int
    columns: Columns
    constants: ForecastConstants

    def count(self, field: str) -> Floats:
        return _compact(self.columns.count(field)).astype(np.float64)

    def has(self, field: str, *values: str | bool) -> Mask:
        return _compact(self.columns.is_in(field, values))

    def looked_up(self, field: str, table: Mapping[Any, float]) -> Floats:
        """What `table` has for each row's choice; it must know every choice of the field."""
        by_code = np.array([table[choice] for choice in choices(field) or ()], dtype=np.float64)
        found: Floats = by_code[_compact(self.columns.values[field]).astype(np.intp)]
        return found

    @cached_property
    def sizes(self) -> Sizes:
        return Sizes.of(self.shape)

    @property
    def on_cuda(self) -> bool:
        return self.group.gpu.kind == "cuda"

    # The device.

    @cached_property
    def peak_flops(self) -> Floats:
        """Dense operations per second at each row's precision; BadInput where the device states none."""
        return self._rates(RATES)

    @cached_property
    def unconverted_flops(self) -> Floats:
        """The same for attention, experts and head, which float8 training leaves in bf16."""
        return self._rates({**RATES, "fp8": RATES["bf16"]})

    @cached_property
    def grouped_flops(self) -> Floats:
        """The same for experts: torch's grouped matmul is not among the operators that autocast casts for."""
        single = self.group.gpu.tflops.get("fp32", math.nan) * 1e12
        return np.where(self.autocasts & ~np.isnan(single), single, self.unconverted_flops)

    def _rates(self, rates: Mapping[Precision, tuple[str, ...]]) -> Floats:
        gpu = self.group.gpu
        table = {
            precision: next((gpu.tflops[name] * 1e12 for name in names if name in gpu.tflops), math.nan)
            for precision, names in rates.items()
        }
        found = self.looked_up("precision", table)
        if np.isnan(found).any():
            missing = " and ".join(precision for precision, rate in table.items() if math.isnan(rate))
            raise BadInput(f"{gpu.name} states no TFLOP/s for {missing}; add them to the inventory file")
        return found

    @property
    def bandwidth(self) -> float:
        """Bytes per second that kernels get from the device's memory."""
        return self.constants.memory_efficiency * self.group.gpu.bandwidth_gb_per_s * 1e9

    # The batch.

    @cached_property
    def micro_batch(self) -> Floats:
        return self.count("micro_batch_size")

    @cached_property
    def accumulation(self) -> Floats:
        return self.count("gradient_accumulation_steps")

    @cached_property
    def sequence(self) -> Floats:
        """Tokens of a whole sequence."""
        return self.count("sequence_length")

    @cached_property
    def tokens(self) -> Floats:
        """Of one microbatch on one rank."""
        return self.micro_batch * self.sequence / self.context

    # The world.

    @cached_property
    def tensor(self) -> Floats:
        return self.count("tensor_parallel_size")

    @cached_property
    def stages(self) -> Floats:
        return self.count("pipeline_parallel_size")

    @cached_property
    def context(self) -> Floats:
        return self.count("context_parallel_size")

    @cached_property
    def replicas(self) -> Floats:
        return np.maximum(self.world_size // (self.tensor * self.stages * self.context), 1)

    @cached_property
    def peers(self) -> Floats:
        """Ranks that train the same parameters: data-parallel × context-parallel."""
        return np.maximum(self.world_size // (self.tensor * self.stages), 1)

    @cached_property
    def shards(self) -> Floats:
        """Parts that sharded states are split in: one per peer, under hsdp of the same node; 1 under DDP."""
        in_node = np.clip(min(self.group.gpus_per_node, self.world_size) // self.tensor, 1, self.peers)
        return np.where(self.has("sharding", "ddp"), 1.0, np.where(self.is_hsdp, in_node, self.peers))

    # The engine.

    @cached_property
    def is_ddp(self) -> Mask:
        return self.has("sharding", "ddp")

    @cached_property
    def is_hsdp(self) -> Mask:
        return self.has("sharding", "hsdp")

    @cached_property
    def is_fsdp(self) -> Mask:
        return self.has("sharding", "fsdp", "hsdp")

    @cached_property
    def is_zero(self) -> Mask:
        return self.has("sharding", "zero1", "zero2", "zero3")

    @cached_property
    def is_zero3(self) -> Mask:
        return self.has("sharding", "zero3")

    @cached_property
    def is_lora(self) -> Mask:
        return self.has("adaptation", "lora")

    @cached_property
    def checkpoints(self) -> Mask:
        return ~self.has("activation_checkpointing", "none")

    @cached_property
    def offloads_activations(self) -> Mask:
        return self.has("offload", "activations") & self.on_cuda

    @cached_property
    def offloads_parameters(self) -> Mask:
        return self.has("offload", "optimizer_and_parameters") & self.on_cuda

    @cached_property
    def offloads_optimizer(self) -> Mask:
        """Whether optimizer states leave the device; where the device is the CPU, they cannot."""
        return self.has("offload", "optimizer", "optimizer_and_parameters") & self.on_cuda

    @cached_property
    def updates_by_deepspeed(self) -> Mask:
        """Whether DeepSpeed offloads the optimizer, be it from a GPU or within a CPU's own memory."""
        return self.is_zero & self.has("offload", "optimizer", "optimizer_and_parameters")

    @cached_property
    def bytes(self) -> FormatColumns:
        """Bytes per parameter, by what the engine keeps at the row's precision."""
        code = _compact(self.columns.values["sharding"]).astype(np.intp) * len(choices("precision") or ())
        rows: Floats = format_table()[code + _compact(self.columns.values["precision"])]
        return FormatColumns(*rows.T)

    @cached_property
    def mode(self) -> Indices:
        """How layers compute: HALF, SINGLE or AUTOCAST.

        Frozen weights are stored as they are computed with, so under LoRA autocast casts adapters alone.
        """
        mode = self.bytes.mode.astype(np.intp)
        return np.where(self.is_lora & (mode == AUTOCAST), HALF, mode)

    @cached_property
    def casts_adapters(self) -> Mask:
        """Whether adapters are stored wider than they are computed with, and their inputs cast for each."""
        mask: Mask = self.is_lora & (self.bytes.mode == AUTOCAST)
        return mask

    @cached_property
    def frozen_bytes(self) -> Floats:
        """Of a weight of the model itself: trained, or frozen and then in no more digits than are read."""
        return np.where(self.is_lora, self.bytes.compute, self.bytes.weights)

    @cached_property
    def autocasts(self) -> Mask:
        mask: Mask = self.mode == AUTOCAST
        return mask


def _compact(array: NDArray[Any]) -> NDArray[Any]:
    """One element in place of a column that repeats it."""
    return array[:1] if array.strides == (0,) else array
