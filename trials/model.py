"""The real model of a probe: from a Hugging Face configuration or a user's factory, with seeded weights."""

import importlib
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trials.contract.config import ActivationCheckpointing, TrainingConfig
from trials.contract.messages import ModelSpec
from trials.quantised import FrozenLinear

ModuleInitialiser = Callable[[nn.Module], None]
Stack = nn.ModuleList | nn.Sequential
ParameterWriter = Callable[[nn.Parameter, torch.Tensor], object]


ATTENTION = {"flash": "flash_attention_2"}
"""Attention → transformers' name, where it has another."""


class ModelUnusable(Exception):
    """The model cannot be trained as it is; the message says what it lacks."""


USUAL_STD = 0.02
"""Standard deviation of weights that a model's own initialisation forgets: transformers' usual one."""
NO_STACK = (
    "the model keeps no stack of equal layers in an nn.ModuleList or nn.Sequential, so there is nothing to "
    "checkpoint or to shard by"
)


class FactoryFailed(ModelUnusable):
    """The user's factory raised, which is its cause."""


@dataclass(frozen=True)
class BuiltModel:
    """A model as its source made it, before any engine touched it."""

    module: nn.Module
    initialise_module: ModuleInitialiser | None
    """Sets the weights and buffers of one submodule; None when the factory has set them already."""
    vocab_size: int
    num_parameters: int
    """Of the whole model, whatever was left out."""
    layers: Stack
    """The repeated blocks: what is checkpointed and sharded as a unit."""

    @property
    def is_meta(self) -> bool:
        return self.initialise_module is not None


def build(
    spec: ModelSpec,
    config: TrainingConfig,
    dtype: torch.dtype,
    seed: int,
    *,
    num_layers: int | None = None,
    on_meta: bool = True,
) -> BuiltModel:
    """Build the model of `spec`, its weights stored as `dtype`.

    A Hugging Face model comes on the meta device, so that an engine can shard it before any memory is
    spent (`on_meta=False`: for an engine that shards while submodules are constructed); a factory's is
    real and on the CPU, since only the factory knows its buffers. `num_layers` leaves out the layers beyond.
    Raises ModelUnusable where it has no layers or no vocabulary, FactoryFailed where a factory raised.
    """
    if spec.hf_config is not None:
        return _from_hf_config(spec.hf_config, config, dtype, num_layers, on_meta=on_meta)
    return _built(_from_factory(spec, dtype, seed), None, num_layers)


def model_class(hf_config: dict[str, Any]) -> tuple[Any, Any]:
    """Transformers' configuration object and causal-LM class for a configuration; imports, builds nothing."""
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    fields = {**hf_config, "use_cache": False}
    model_type = fields.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        raise ModelUnusable(f"transformers knows no model_type {model_type!r}")
    try:
        config = AutoConfig.for_model(model_type, **fields)
    except Exception as error:  # whatever its validation raises
        words = " ".join(str(error).split())
        raise ModelUnusable(f"transformers refuses this {model_type} configuration: {words}") from error
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ModelUnusable(f"transformers has no causal language model for model_type {model_type!r}")
    return config, AutoModelForCausalLM._model_mapping[type(config)]


def load_factory(spec: ModelSpec) -> Callable[[], object]:
    """Import `package.module:callable`; raises ModelUnusable naming what is missing."""
    assert spec.factory is not None
    if spec.factory_path is not None and spec.factory_path not in sys.path:
        sys.path.insert(0, spec.factory_path)
    module_name, _, attribute = spec.factory.partition(":")
    factory: Callable[[], object] | None = getattr(importlib.import_module(module_name), attribute, None)
    if not callable(factory):
        raise ModelUnusable(f"{spec.factory}: {module_name} has no callable {attribute!r}")
    return factory


def _from_factory(spec: ModelSpec, dtype: torch.dtype, seed: int) -> nn.Module:
    """Real, and on fake tensors only then made fake: a factory may read what its tensors hold."""
    from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

    with unset_fake_temporarily() as fake_mode:
        torch.manual_seed(seed)
        try:
            module = load_factory(spec)()
        except ModelUnusable:
            raise
        except (Exception, SystemExit) as error:
            words = " ".join(str(error).split())
            raise FactoryFailed(f"{spec.factory} raised {type(error).__name__}: {words}") from error
        if not isinstance(module, nn.Module):
            raise ModelUnusable(f"{spec.factory} returned {type(module).__name__}, not a torch.nn.Module")
        module = module.to(dtype)
    if isinstance(fake_mode, FakeTensorMode):
        tensors: dict[str, Any]
        for part in module.modules():
            for tensors in (part._parameters, part._buffers):
                tensors |= {name: fake_mode.from_tensor(t) for name, t in tensors.items() if t is not None}
    return module


def _from_hf_config(
    hf_config: dict[str, Any],
    config: TrainingConfig,
    dtype: torch.dtype,
    num_layers: int | None,
    *,
    on_meta: bool,
) -> BuiltModel:
    from torch._subclasses.fake_tensor import unset_fake_temporarily
    from transformers.initialization import no_init_weights

    fields, cls = model_class(hf_config)
    # A trace builds under a mode of fake tensors, and one that is fake and meta cannot be given memory.
    with no_init_weights(), unset_fake_temporarily(), torch.device("meta") if on_meta else nullcontext():
        module = cls._from_config(
            fields, attn_implementation=ATTENTION.get(config.attention, config.attention), dtype=dtype
        )
    module.tie_weights()
    return _built(module, module._init_weights, num_layers)


def _built(
    module: nn.Module, initialise_module: ModuleInitialiser | None, num_layers: int | None
) -> BuiltModel:
    num_parameters = sum(_full_shape(p).numel() for p in module.parameters())
    layers = find_layers(module)
    if num_layers is not None:
        del layers[num_layers:]
    return BuiltModel(
        module=module.train(),
        initialise_module=initialise_module,
        vocab_size=_vocab_size(module),
        num_parameters=num_parameters,
        layers=layers,
    )


def _vocab_size(module: nn.Module) -> int:
    sizes = [m.num_embeddings for m in module.modules() if isinstance(m, nn.Embedding)]
    if not sizes:
        raise ModelUnusable("the model has no nn.Embedding, so it is no language model that a probe can feed")
    return max(sizes)


def find_layers(module: nn.Module) -> Stack:
    """The list of modules, or sequence of equal ones, with the most parameters: the transformer blocks."""
    stacks = [m for m in module.modules() if isinstance(m, Stack) and _is_stack(m)]
    if not stacks:
        raise ModelUnusable(NO_STACK)
    return max(stacks, key=lambda layers: sum(_full_shape(p).numel() for p in layers.parameters()))


def _is_stack(modules: Stack) -> bool:
    return len(modules) > 0 if isinstance(modules, nn.ModuleList) else len({*map(type, modules)}) == 1


@dataclass(frozen=True)
class Part:
    """A submodule with parameters or buffers of its own."""

    number: int
    """Its place in the whole model, which seeds its values."""
    module: nn.Module
    names: tuple[str, ...]
    """Of its parameters; a tied one belongs to the first that has it."""


def parts_of(root: nn.Module) -> list[Part]:
    seen: set[int] = set()
    parts: list[Part] = []
    for module in root.modules():
        own = {n: p for n, p in module._parameters.items() if p is not None and id(p) not in seen}
        seen.update(id(p) for p in own.values())
        if own or module._buffers:
            parts.append(Part(len(parts), module, tuple(own)))
    return parts


def initialise(
    built: BuiltModel,
    device: torch.device,
    seed: int,
    write: ParameterWriter,
    parts: Sequence[Part] | None = None,
) -> None:
    """Give every parameter the value that `seed` decides, however it is sharded.

    `parts`: those of the whole model that are to have theirs; else all.

    Submodule by submodule, the whole tensors are made in fp32 from a seed of their own, handed to
    `write` and dropped; so every engine starts from the same weights, which makes their losses
    comparable, and no rank ever holds more than one submodule in full.
    """
    if built.initialise_module is None:
        return
    from torch._subclasses.fake_tensor import FakeTensor

    for part in parts_of(built.module) if parts is None else parts:
        module = part.module
        own = {name: module.get_parameter(name) for name in part.names}
        shapes = {name: _full_shape(parameter) for name, parameter in own.items()}
        if isinstance(module, FrozenLinear):
            shapes = module.full_shapes()
        full = {
            name: nn.Parameter(torch.full(shape, torch.nan, device=device, dtype=torch.float32))
            for name, shape in shapes.items()
        }
        module._parameters.update(full)
        torch.manual_seed(seed * 1_000_003 + part.number)
        try:
            built.initialise_module(module)
        finally:
            module._parameters.update(own)
        for parameter in full.values():
            # A few families leave some as they find them; a trace has no values to find.
            if not isinstance(parameter, FakeTensor) and parameter.isnan().any():
                nn.init.normal_(parameter, std=USUAL_STD)
        values = {name: parameter.detach() for name, parameter in full.items()}
        if isinstance(module, FrozenLinear):
            values |= module.packed(values["weight"])
        with torch.no_grad():
            for name, parameter in own.items():
                write(parameter, values[name])


def to_empty(module: nn.Module, device: torch.device, parameters_on: torch.device | None = None) -> None:
    """Give meta tensors memory without values, parameters elsewhere than buffers where that is asked for.

    Tied parameters stay one, which nn.Module.to_empty forgets.
    """
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append((owner, name))
    module.to_empty(device=parameters_on or device)
    for owner in module.modules():
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                owner._buffers[name] = buffer.to(device)
    for (first, first_name), *others in places.values():
        for owner, name in others:
            owner._parameters[name] = first._parameters[first_name]


def _full_shape(parameter: nn.Parameter) -> torch.Size:
    """The unsharded shape, also where ZeRO-3 has already replaced the data by its partition."""
    return getattr(parameter, "ds_shape", parameter.shape)


def checkpoint_layers(layers: Stack, mode: ActivationCheckpointing) -> None:
    """Wrap each layer so that its backward recomputes it, from its input or from what `selective` keeps.

    That is the output of attention and of every second matmul: the policy of torchtitan.
    """
    if mode == "none":
        return
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper

    selectively = {"context_fn": _selective_contexts} if mode == "selective" else {}
    for index, layer in enumerate(layers):
        layers[index] = checkpoint_wrapper(layer, checkpoint_impl=CheckpointImpl.NO_REENTRANT, **selectively)


def _selective_contexts() -> Any:
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    aten = torch.ops.aten
    attention = {
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
    }
    matmuls = {aten.mm.default, aten.addmm.default, aten._scaled_mm.default}
    seen = {False: 0, True: 0}

    def policy(context: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
        if operator in matmuls:
            seen[context.is_recompute] += 1
            kept = seen[context.is_recompute] % 2 == 1
        else:
            kept = operator in attention
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


def loss_of(output: Any) -> torch.Tensor:
    """The loss in what a model returned: an object with `.loss`, or the scalar itself."""
    loss = getattr(output, "loss", output)
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        raise ModelUnusable("the model's forward(input_ids=..., labels=...) must return a loss")
    return loss
