"""`python -P -m trials.describe SPEC.json OUT.json`: what a model is, found by building it.

The model is built on the meta device, without memory, where its code allows that. The answer is one
object: the sizes of the decoder with `factory_version` and `notes`, or `{"error": sentence}`.
"""

import json
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trials.contract.measured import MeasuredLayers
from trials.contract.message import ContractError, nearest
from trials.contract.messages import ModelSpec
from trials.model import ModelUnusable, find_layers, load_factory

MEMORY_BYTES = 8 << 30
"""On the meta device a configuration builds in under 1 GiB; one made to exhaust the machine stops here."""
MEASURING_S = 60
"""On fake tensors most models take under ten seconds."""
MEASURED = (
    "what its layers and head keep and need was measured on fake tensors; how tensor parallelism splits it, "
    "what compiling spares, and the speed are assumed as in a decoder like Llama"
)

# The names under which models and their configurations keep a size, in order of preference.
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth")
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim", "embed_dim")
INTERMEDIATE = ("moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff")
HEADS = ("num_attention_heads", "num_heads", "n_head", "n_heads", "nhead")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_kv_head")
HEAD_DIM = ("head_dim", "d_head", "head_size")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "top_k", "moe_top_k")
MAX_POSITIONS = ("max_position_embeddings", "n_positions", "block_size")
WINDOW = ("sliding_window",)
ATTENTION = re.compile(r"att|qkv|query|key|value|[qkvo]_proj", re.IGNORECASE)
POSITIONS = re.compile(r"pos|wpe", re.IGNORECASE)
USUAL_HEAD_DIM = 64


class CannotDescribe(Exception):
    """The model cannot be built or is none; the message is one sentence."""


def main(spec_file: str, out_file: str) -> None:
    try:
        spec = ModelSpec.parse(Path(spec_file).read_bytes())
        answer = describe(spec)
    except (CannotDescribe, ContractError) as error:
        _write({"error": str(error)}, out_file)
        return
    # It stands, in case that the measurement takes the process down or is not ready by the deadline.
    _write(_with_layers(answer, _unmeasured("running it on fake tensors ended its process")), out_file)
    _write(_with_layers(answer, _measured(spec, answer)), out_file)


def _write(answer: dict[str, Any], out_file: str) -> None:
    unfinished = Path(f"{out_file}.part")
    unfinished.write_text(json.dumps(answer))
    unfinished.replace(out_file)


def _with_layers(sizes: dict[str, Any], layers: tuple[MeasuredLayers | None, str]) -> dict[str, Any]:
    measured, note = layers
    return {
        **sizes,
        "measured": None if measured is None else asdict(measured),
        "notes": [*sizes["notes"], note],
    }


def _measured(spec: ModelSpec, sizes: dict[str, Any]) -> tuple[MeasuredLayers | None, str]:
    """What the layers take, with a note; where they cannot be measured, the note says why."""
    from trials.layer_bytes import measure_layers

    try:
        with _limited_memory(), _limited_time():
            return measure_layers(spec, sizes["max_positions"], sizes["sliding_window"]), MEASURED
    except (Exception, SystemExit) as error:  # a model's code may raise anything when its tensors are fake
        return _unmeasured(_in_a_line(error))


def _unmeasured(reason: str) -> tuple[None, str]:
    return (
        None,
        f"activations are assumed as in a decoder like Llama, for they could not be measured: {reason}",
    )


@contextmanager
def _limited_memory() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


@contextmanager
def _limited_time() -> Iterator[None]:
    def end(*_: object) -> None:
        raise TimeoutError(f"it took more than {MEASURING_S} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(MEASURING_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def describe(spec: ModelSpec) -> dict[str, Any]:
    """Build the model and return its sizes; raises CannotDescribe."""
    if spec.hf_config is not None:
        model = _from_hf_config(dict(spec.hf_config))
        return _sizes(model, str(spec.hf_config["model_type"]), spec.name) | {"factory_version": None}
    assert spec.factory is not None  # ModelSpec holds one of the two
    factory = _import(spec)
    version = getattr(factory, "version", None)
    return _sizes(_call(factory, spec.factory), "factory", spec.name) | {
        "factory_version": None if version is None else str(version)
    }


def _from_hf_config(config: dict[str, Any]) -> nn.Module:
    with _limited_memory():
        return _built_from(config)


def _built_from(config: dict[str, Any]) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    model_type = config.pop("model_type")
    if model_type not in CONFIG_MAPPING_NAMES:
        near = nearest(model_type, list(CONFIG_MAPPING_NAMES), otherwise="")
        raise CannotDescribe(f"transformers knows no model_type {model_type!r}{near}")
    try:
        hf_config = AutoConfig.for_model(model_type, **config)
        if type(hf_config) not in AutoModelForCausalLM._model_mapping:
            raise CannotDescribe(f"transformers has no causal language model for model_type {model_type!r}")
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(hf_config)
    except CannotDescribe:
        raise
    except Exception as error:  # whatever a configuration makes the library raise
        raise CannotDescribe(f"transformers cannot build this {model_type}: {_in_a_line(error)}") from error
    return model


def _import(spec: ModelSpec) -> Callable[[], object]:
    try:
        return load_factory(spec)
    except ModelUnusable as error:
        raise CannotDescribe(str(error)) from error
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise CannotDescribe(f"cannot import factory {spec.factory}: {_in_a_line(error)}") from error


def _call(factory: Callable[[], object], name: str) -> nn.Module:
    try:
        with torch.device("meta"):
            model = factory()
    except (Exception, SystemExit):  # some initialisations need real tensors
        try:
            model = factory()
        except (Exception, SystemExit) as error:
            raise CannotDescribe(f"factory {name} raised {_in_a_line(error)}") from error
    if not isinstance(model, nn.Module):
        raise CannotDescribe(f"factory {name} must return a torch.nn.Module, not {type(model).__name__}")
    return model


def _sizes(model: nn.Module, model_type: str, name: str) -> dict[str, Any]:
    """The fields of a decoder's shape: read from the model's configuration, else from its modules."""
    embeddings = {path: module for path, module in model.named_modules() if isinstance(module, nn.Embedding)}
    if not embeddings:
        raise CannotDescribe(f"{name} has no nn.Embedding, so it is no language model over tokens")
    tokens = _of_tokens(model, embeddings)
    try:
        layers = list(find_layers(model))
    except ModelUnusable as error:
        raise CannotDescribe(f"{name}: {error}") from error
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    layer = layers[-1]  # where experts begin after some dense layers, it has them
    sources = (config, *layer.modules())

    hidden = _first(HIDDEN, config) or tokens.embedding_dim
    heads = _first(HEADS, *sources)
    notes = []
    if heads is None:
        heads = max(1, hidden // USUAL_HEAD_DIM)
        notes.append(f"the attention heads of {name} are not visible; {heads} are assumed")
    widths = list(_feed_forward_widths(layer, hidden))
    intermediate = _first(INTERMEDIATE, config) or max(widths, default=4 * hidden)
    num_layers = _first(LAYERS, config) or len(layers)
    tied = not any(
        module.weight is not tokens.weight
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.out_features == tokens.num_embeddings
    )
    num_parameters = _num_parameters([model])
    vocabulary = tokens.num_embeddings * tokens.embedding_dim * (1 if tied else 2)
    inside = _num_parameters(layers)
    positions = [item.num_embeddings for path, item in embeddings.items() if POSITIONS.search(path)]
    limits = [*positions, _first(MAX_POSITIONS, config) or min(positions)] if positions else []
    windows = [window for item in layers if (window := _first(WINDOW, *item.modules())) is not None]
    return {
        "model_type": model_type,
        "num_parameters": num_parameters,
        "num_layers": num_layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_heads": heads,
        "num_kv_heads": _first(KV_HEADS, *sources) or heads,
        "head_dim": _first(HEAD_DIM, *sources) or max(1, hidden // heads),
        "vocab_size": tokens.num_embeddings,
        "tied_embeddings": tied,
        "gated_mlp": widths.count(intermediate) >= 3 or 2 * intermediate in widths,
        "max_positions": min(limits, default=None),
        "num_experts": _first(EXPERTS, config) or 1,
        "experts_per_token": _first(EXPERTS_PER_TOKEN, config) or 1,
        "sliding_window": max(windows, default=None),
        "windowed_layers": len(windows),
        "other_parameters": max(0, num_parameters - vocabulary - inside),
        "notes": notes,
    }


def _of_tokens(model: nn.Module, embeddings: dict[str, nn.Embedding]) -> nn.Embedding:
    """The one that the model says, else the largest whose name does not speak of positions."""
    says = getattr(model, "get_input_embeddings", None)
    said = says() if callable(says) else None
    if isinstance(said, nn.Embedding):
        return said
    of_others = [item for path, item in embeddings.items() if not POSITIONS.search(path)]
    return max(of_others or embeddings.values(), key=lambda module: module.num_embeddings)


def _feed_forward_widths(layer: nn.Module, hidden: int) -> Iterator[int]:
    """The other side of each matrix, or stack of them, with `hidden` on one side; attention left out."""
    for path, parameter in layer.named_parameters():
        matrix = parameter.shape[-2:]
        if len(matrix) == 2 and hidden in matrix and not ATTENTION.search(path):
            yield matrix.numel() // hidden


def _num_parameters(modules: list[nn.Module]) -> int:
    return sum(item.numel() for item in {id(p): p for m in modules for p in m.parameters()}.values())


def _first(names: tuple[str, ...], *sources: object) -> int | None:
    """The first positive integer that any source has under one of `names`."""
    for source in sources:
        for name in names:
            value = getattr(source, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


def _in_a_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


if __name__ == "__main__":
    main(*sys.argv[1:])
