"""Pipeline parallelism: stages of consecutive layers, each on ranks of its own (torch.distributed)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.nn.parallel import DistributedDataParallel

from trials.contract.config import PipelineSchedule, TrainingConfig
from trials.contract.constants import EngineConstants
from trials.data import Batch
from trials.engines import Engine, EngineRefusal, Setting, StepOutcome, fsdp, native
from trials.gradients import clip_gradients
from trials.mesh import STAGE, Mesh, device_mesh
from trials.model import BuiltModel, ModelUnusable, initialise, parts_of, to_empty
from trials.model import build as build_model
from trials.modify import STORED, dtype_of_weights, modify
from trials.optimizers import constants_of_sharded, make_optimizer
from trials.split import write_part


def build(setting: Setting) -> Engine:
    config, device = setting.config, setting.device
    built = build_model(setting.model, config, dtype_of_weights(config, STORED), setting.seed)
    built = modify(built, config, STORED, device)
    if not built.is_meta:
        raise EngineRefusal("a pipeline is cut from Hugging Face models alone, not from a factory's")
    mesh = device_mesh(setting)
    parts = parts_of(built.module)
    cut = cut_stage(built, mesh[STAGE].get_local_rank(), mesh[STAGE].size())
    here = set(cut.modules())
    constants = constants_of_sharded(config, built.num_parameters)
    sharded = config.sharding in ("fsdp", "hsdp")
    stage: nn.Module = cut
    if sharded:
        fsdp.shard(cut, built.layers, mesh, setting)
    to_empty(cut, device, parameters_on=fsdp.home_of_parameters(setting))
    initialise(built, device, setting.seed, write_part, [part for part in parts if part.module in here])
    if not sharded:
        cut.autocast = native.AUTOCAST.get(config.precision)
        if mesh.data.size() > 1:
            stage = native.replicate(cut, mesh, constants, device)
    return PipelineEngine(stage, cut, built, config, constants, mesh, device)


SCHEDULES: Mapping[PipelineSchedule, type[Schedule1F1B | ScheduleGPipe]] = MappingProxyType(
    {"1f1b": Schedule1F1B, "gpipe": ScheduleGPipe}
)
BEYOND_LAYERS: Mapping[str, object] = MappingProxyType(
    {
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "logit_scale": 1.0,
        "final_logit_softcapping": None,
        "output_router_logits": False,
    }
)
"""Fields of models that make more of embeddings, logits or the loss than their matrices say → where not."""


class Stage(nn.Module):
    """Some of a model's layers, with the embedding before the first of all, and the head after the last."""

    def __init__(self, base: nn.Module, head: nn.Module | None, *, is_first: bool) -> None:
        super().__init__()
        self.base = base
        self.head = head
        self.autocast: torch.dtype | None = None
        self._is_first = is_first

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Tokens (B, S), or hidden states (B, S, h), to hidden states or logits (B, S, V)."""
        name = "input_ids" if self._is_first else "inputs_embeds"
        with torch.autocast(given.device.type, self.autocast, enabled=self.autocast is not None):
            hidden: torch.Tensor = self.base(**{name: given}, use_cache=False).last_hidden_state
            return hidden if self.head is None else self.head(hidden)


def cut_stage(built: BuiltModel, stage: int, num_stages: int) -> Stage:
    """Take everything out of the model that is not of its stage, and hand out what is.

    Raises ModelUnusable for one that transformers does not say how to cut, or that ties its embeddings.
    """
    model: Any = built.module
    base, plan = model.base_model, getattr(model.config, "base_model_pp_plan", None)
    if not plan or len(plan) != 3:
        raise ModelUnusable("transformers does not say how to cut this model into the stages of a pipeline")
    if missed := [
        n for n, none in BEYOND_LAYERS.items() if getattr(model.config, n, none) not in (None, none)
    ]:
        raise ModelUnusable(f"a pipeline's stages would miss this model's {', '.join(missed)}")
    embedding, _, norm = plan
    head = model.get_output_embeddings()
    if head is None or head.weight is base.get_input_embeddings().weight:
        raise ModelUnusable("a pipeline has embedding and head on different ranks, but this model ties them")
    is_first, is_last = stage == 0, stage == num_stages - 1
    kept = layers_of(stage, num_stages, len(built.layers))
    kinds = getattr(base.config, "layer_types", None)
    if kinds is not None:
        base.config.layer_types = list(kinds[kept.start : kept.stop])
    del built.layers[kept.stop :]
    del built.layers[: kept.start]
    base.config.num_hidden_layers = len(kept)
    if not is_first:
        setattr(base, embedding, nn.Identity())
    if not is_last:
        setattr(base, norm, nn.Identity())
    return Stage(base, head if is_last else None, is_first=is_first)


def layers_of(stage: int, num_stages: int, num_layers: int) -> range:
    """As many for each stage, or one more for the first ones."""
    each, more = divmod(num_layers, num_stages)
    start = stage * each + min(stage, more)
    return range(start, start + each + (stage < more))


class PipelineEngine:
    def __init__(
        self,
        stage: nn.Module,
        cut: Stage,
        built: BuiltModel,
        config: TrainingConfig,
        constants: EngineConstants,
        mesh: Mesh,
        device: torch.device,
    ) -> None:
        self.vocab_size = built.vocab_size
        self.num_parameters = built.num_parameters
        self.constants = constants
        self._parameters = [p for p in cut.parameters() if p.requires_grad]
        self._optimizer = make_optimizer(config.optimizer, self._parameters, fused=constants.fused_optimizer)
        self._group = mesh[STAGE].get_group()
        self._device = device
        self._model: Any = built.module
        # The schedule has DDP reduce with the last backward whatever this says; but before the first step it
        # runs a forward to learn shapes, which must not have the first backward be reduced as well.
        self._unreduced: Callable[[], AbstractContextManager[object]] = (
            stage.no_sync if isinstance(stage, DistributedDataParallel) else nullcontext
        )
        index, count = mesh[STAGE].get_local_rank(), mesh[STAGE].size()
        self._is_first, self._is_last = index == 0, index == count - 1
        self._schedule = SCHEDULES[config.pipeline_schedule](
            PipelineStage(stage, index, count, device, group=self._group),
            config.gradient_accumulation_steps,
            loss_fn=self._loss,
        )

    def step(self, batches: Sequence[Batch]) -> StepOutcome:
        tokens, labels = (torch.cat([batch[key] for batch in batches]) for key in ("input_ids", "labels"))
        losses: list[torch.Tensor] = []
        with self._unreduced():
            self._schedule.step(
                *([tokens] if self._is_first else []),
                target=labels if self._is_last else None,
                losses=losses,
                return_outputs=False,
            )
        loss = torch.stack([one.detach().float() for one in losses]).mean() if losses else self._zero()
        dist.all_reduce(loss, group=self._group)
        norm = clip_gradients(self._parameters, self.constants.gradient_clip_norm, stages=self._group)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return StepOutcome(loss, norm)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self._model.loss_function(
            logits=logits, labels=labels, vocab_size=self.vocab_size
        )
        return loss

    def _zero(self) -> torch.Tensor:
        return torch.zeros((), device=self._device)
