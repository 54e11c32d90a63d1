"""DeepSpeed ZeRO 1 to 3: states, then gradients, then parameters partitioned."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext

import deepspeed
import torch
from torch import nn

from trials.contract.constants import EngineConstants, engine_constants
from trials.contract.deepspeed_config import deepspeed_config, makes_optimizer
from trials.data import Batch
from trials.engines import Engine, Setting, StepOutcome
from trials.model import BuiltModel, initialise, loss_of, to_empty
from trials.model import build as build_model
from trials.modify import COMPUTED, modify
from trials.optimizers import make_optimizer


def build(setting: Setting) -> Engine:
    config = setting.config
    deepspeed.init_distributed(
        dist_backend=torch.distributed.get_backend(), auto_mpi_discovery=False, dist_init_required=False
    )
    dtype = COMPUTED[config.precision]  # the fp32 master is DeepSpeed's own partition
    partitioned = config.sharding == "zero3"
    with _partitioning(setting, dtype) if partitioned and setting.model.hf_config else nullcontext():
        built = build_model(setting.model, config, dtype, setting.seed, on_meta=not partitioned)
    built = modify(built, config, COMPUTED, setting.device)
    constants = engine_constants(built.num_parameters)
    _materialise(built, setting, dtype, partitioned)
    trained = [p for p in built.module.parameters() if p.requires_grad]
    own = None
    if not makes_optimizer(config):
        own = make_optimizer(config.optimizer, trained, fused=constants.fused_optimizer)
    engine, *_ = deepspeed.initialize(
        model=built.module,
        model_parameters=trained,
        optimizer=own,
        config=deepspeed_config(config, constants, setting.world_size, setting.device_kind),
        dist_init_required=False,
    )
    return ZeroEngine(engine, built, constants)


def _partitioning(setting: Setting, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Under it every submodule is partitioned as soon as it is constructed.

    Not for a factory: what one computes while it constructs (its weights, the tables in its buffers) would
    come out in `dtype`, and so be another model than it is under the other engines.
    """
    from transformers.integrations.deepspeed import prevent_arange_dtype_change

    contexts = ExitStack()
    contexts.enter_context(prevent_arange_dtype_change())  # rotary frequencies stay fp32
    contexts.enter_context(_zero_init(setting, dtype))
    return contexts


def _zero_init(setting: Setting, dtype: torch.dtype, module: nn.Module | None = None) -> deepspeed.zero.Init:
    """Partitions what is constructed under it, or `module` at once, parameter by parameter.

    The format goes by the configuration: DeepSpeed 0.19 ignores its argument `dtype` on devices without fp16,
    and takes bf16 in its place.
    """
    return deepspeed.zero.Init(
        module=module,
        remote_device="cpu" if setting.config.offload == "optimizer_and_parameters" else setting.device.type,
        config_dict_or_path={
            "train_micro_batch_size_per_gpu": setting.config.micro_batch_size,
            "zero_optimization": {"stage": 3},
            "bf16": {"enabled": dtype == torch.bfloat16},
            "fp16": {"enabled": dtype == torch.float16},
        },
    )


def _materialise(built: BuiltModel, setting: Setting, dtype: torch.dtype, partitioned: bool) -> None:
    if not built.initialise_module:
        if partitioned:
            _zero_init(setting, dtype, built.module)
        built.module.to(setting.device)
    elif partitioned:
        initialise(built, setting.device, setting.seed, _write_partition)
    else:
        to_empty(built.module, setting.device)
        initialise(built, setting.device, setting.seed, lambda parameter, full: parameter.copy_(full))


def _write_partition(parameter: nn.Parameter, full: torch.Tensor) -> None:
    with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
        if torch.distributed.get_rank() == 0:
            parameter.copy_(full)


class ZeroEngine:
    def __init__(
        self, engine: deepspeed.DeepSpeedEngine, built: BuiltModel, constants: EngineConstants
    ) -> None:
        self.vocab_size = built.vocab_size
        self.num_parameters = built.num_parameters
        self.constants = constants
        self.engine = engine

    def step(self, batches: Sequence[Batch]) -> StepOutcome:
        total = torch.zeros((), device=self.engine.device)
        for batch in batches:
            loss = loss_of(self.engine(**batch))
            self.engine.backward(loss)
            self.engine.step()
            total += loss.detach() / len(batches)
        return StepOutcome(total, self.engine.get_global_grad_norm())
