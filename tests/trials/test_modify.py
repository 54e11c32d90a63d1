"""What a configuration makes of a model: quantised, adapted, in float8, its loss in chunks."""

from typing import Any

import pytest
import torch
from probes import DECODER, TINY, hf_model
from torch import nn

from trials.contract.config import TrainingConfig
from trials.contract.constants import LOSS_CHUNKS
from trials.contract.messages import ModelSpec
from trials.float8 import use_float8
from trials.gradients import clip_gradients
from trials.lora import add_adapters
from trials.model import BuiltModel, ModelUnusable, build, initialise, to_empty
from trials.modify import COMPUTED, dtype_of_weights, modify
from trials.offload import OffloadedTensors, unpack
from trials.quantised import FrozenLinear, Int4Linear, Int8Linear

CPU = torch.device("cpu")
TOKENS = torch.randint(96, (2, 16), generator=torch.Generator().manual_seed(0))


def made(model: ModelSpec = TINY["llama"], **fields: Any) -> BuiltModel:
    """The model as an engine has it before it shards it, in fp32."""
    config = TrainingConfig(precision="fp32", sequence_length=16, **fields)
    built = build(model, config, dtype_of_weights(config, COMPUTED), seed=0)
    built = modify(built, config, COMPUTED, CPU)
    if built.is_meta:
        to_empty(built.module, CPU)
    initialise(built, CPU, 0, lambda parameter, full: parameter.copy_(full))
    return built


def loss_of(built: BuiltModel) -> torch.Tensor:
    loss: torch.Tensor = built.module(input_ids=TOKENS, labels=TOKENS).loss
    return loss


def trained(built: BuiltModel) -> dict[str, nn.Parameter]:
    return {name: p for name, p in built.module.named_parameters() if p.requires_grad}


class TestLora:
    def test_trains_adapters_beside_every_linear_of_the_layers_and_nothing_else(self) -> None:
        built = made(adaptation="lora", lora_rank=4)
        names = trained(built)
        assert all("lora_" in name and "layers" in name for name in names)
        assert len(names) == 2 * 7 * 2  # two matrices, seven linears, two layers
        assert {min(p.shape) for p in names.values()} == {4}

    @pytest.mark.parametrize("model", ["llama", "gpt2", "factory"])
    def test_begins_as_the_model_itself(self, model: str) -> None:
        plain, adapted = made(TINY[model]), made(TINY[model], adaptation="lora")
        ups = [p for name, p in trained(adapted).items() if "lora_B" in name]
        downs = [p for name, p in trained(adapted).items() if "lora_A" in name]
        assert ups
        assert not any(p.any() for p in ups)
        assert all(p.any() for p in downs)
        assert sum(p.numel() for p in plain.module.parameters()) == sum(
            p.numel() for p in adapted.module.parameters() if not p.requires_grad
        )

    def test_keeps_frozen_weights_in_the_format_that_is_computed_with(self) -> None:
        stored = {**COMPUTED, "bf16": torch.float32}
        config = TrainingConfig(precision="bf16", adaptation="lora")
        built = build(TINY["llama"], config, dtype_of_weights(config, stored), seed=0)
        built = modify(built, config, stored, CPU)
        assert {p.dtype for p in trained(built).values()} == {torch.float32}
        assert {p.dtype for p in built.module.parameters() if not p.requires_grad} == {torch.bfloat16}

    def test_needs_linears(self) -> None:
        layers = nn.ModuleList([nn.LayerNorm(4)])
        built = BuiltModel(nn.Sequential(layers), None, vocab_size=8, num_parameters=8, layers=layers)
        with pytest.raises(ModelUnusable, match=r"no nn\.Linear"):
            add_adapters(built, 4, torch.float32)


class TestQuantisedBase:
    @pytest.mark.parametrize(("base", "dtype", "bits"), [("int8", torch.int8, 8), ("int4", torch.uint8, 4)])
    def test_is_stored_in_its_bits(self, base: str, dtype: torch.dtype, bits: int) -> None:
        built = made(adaptation="lora", base_weights=base)
        frozen = [m for m in built.layers.modules() if isinstance(m, FrozenLinear)]
        assert len(frozen) == 7 * 2
        for linear in frozen:
            assert linear.weight.dtype == dtype
            assert linear.weight.nbytes == linear.in_features * linear.out_features * bits // 8
            assert not linear.weight.requires_grad
        assert built.module.lm_head.weight.dtype == torch.float32

    @pytest.mark.parametrize(("kind", "error"), [(Int8Linear, 0.01), (Int4Linear, 0.12)])
    def test_is_close_to_what_it_was(self, kind: type[FrozenLinear], error: float) -> None:
        torch.manual_seed(0)
        plain = nn.Linear(128, 32)
        packed = kind(plain)
        widened = packed.widened(torch.float32)
        off = (widened - plain.weight).norm() / plain.weight.norm()
        assert 0 < off < error

    @pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
    @pytest.mark.parametrize("bias", [True, False])
    def test_multiplies_as_its_widened_weight_does(self, kind: type[FrozenLinear], bias: bool) -> None:
        torch.manual_seed(0)
        packed = kind(nn.Linear(64, 32, bias=bias))
        plain = nn.Linear(64, 32, bias=bias)
        with torch.no_grad():
            plain.weight.copy_(packed.widened(torch.float32))
            if bias:
                plain.bias.copy_(packed.bias)
        ours, theirs = (torch.ones(3, 64).cumsum(1).requires_grad_() for _ in range(2))
        packed(ours).pow(2).sum().backward()
        plain(theirs).pow(2).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad)

    @pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
    def test_keeps_nothing_for_the_backward(self, kind: type[FrozenLinear]) -> None:
        packed = kind(nn.Linear(64, 32, bias=False))
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            packed(torch.ones(3, 64, requires_grad=True))
        assert kept == []


class TestQuantisationAware:
    @pytest.mark.parametrize(("bits", "most"), [("int8", 256), ("int4", 16)])
    def test_rounds_the_weights_of_the_forward_and_trains_them(self, bits: str, most: int) -> None:
        model = hf_model("llama", **{**_wide(), "num_hidden_layers": 1})
        built = made(model, quantization_aware=bits)
        seen: list[torch.Tensor] = []
        original = nn.functional.linear

        def linear(input: torch.Tensor, weight: torch.Tensor, bias: Any = None) -> torch.Tensor:
            seen.append(weight.detach())
            return original(input, weight, bias)

        nn.functional.linear = linear
        try:
            loss_of(built).backward()
        finally:
            nn.functional.linear = original
        inside = seen[:7]
        assert inside
        for weight in inside:
            assert len(weight[0, :32].unique()) <= most  # four bits have a scale for so many
        gradients = [p.grad for p in built.layers.parameters()]
        assert all(gradient is not None and gradient.any() for gradient in gradients)

    def test_leaves_the_head_alone(self) -> None:
        assert type(made(quantization_aware="int8").module.lm_head) is nn.Linear


def test_float8_is_for_linears_whose_sides_it_can_multiply() -> None:
    linears = nn.ModuleList([nn.Linear(32, 64), nn.Linear(24, 64), nn.Linear(64, 40)])
    use_float8(linears, CPU)
    assert [type(linear) is nn.Linear for linear in linears] == [False, True, True]
    assert linears[0].weight.dtype == torch.float32
    linears[0](torch.randn(16, 32)).sum().backward()
    assert linears[0].weight.grad is not None


class TestChunkedLoss:
    @pytest.mark.parametrize("model", ["llama", "llama-tied", "gpt2"])
    def test_is_the_same_loss_with_the_same_gradients(self, model: str) -> None:
        whole, chunked = made(TINY[model]), made(TINY[model], loss="chunked")
        losses = [loss_of(built) for built in (whole, chunked)]
        torch.testing.assert_close(losses[1], losses[0])
        for loss in losses:
            loss.backward()
        ours, theirs = dict(chunked.module.named_parameters()), dict(whole.module.named_parameters())
        assert ours.keys() == theirs.keys()
        for name, parameter in theirs.items():
            torch.testing.assert_close(ours[name].grad, parameter.grad, atol=1e-6, rtol=1e-4)

    def test_never_has_all_logits(self) -> None:
        built = made(loss="chunked")
        largest = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal largest
            largest = max(largest, tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss_of(built)
        assert largest < TOKENS.numel() * 96

    def test_comes_in_as_many_pieces_as_are_forecast(self) -> None:
        built = made(loss="chunked")
        pieces: list[int] = []
        head: Any = built.module.get_output_embeddings()
        head.register_forward_hook(lambda _head, _args, output: pieces.append(output.dim()))
        loss_of(built)
        assert pieces.count(0) == LOSS_CHUNKS

    def test_is_not_for_a_factory(self) -> None:
        with pytest.raises(ModelUnusable, match="loss=chunked needs a Hugging Face model"):
            made(TINY["factory"], loss="chunked")


def test_activations_in_cpu_memory_give_the_same_gradients() -> None:
    kept, offloaded = made(), made(offload="activations")
    for built in (kept, offloaded):
        loss_of(built).backward()
    for ours, theirs in zip(offloaded.module.parameters(), kept.module.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_clipping_is_torchs() -> None:
    ours, theirs = (
        [nn.Parameter(torch.randn(5, 3, generator=torch.Generator().manual_seed(n))) for n in range(3)]
        for _ in range(2)
    )
    for most in (100.0, 0.5):
        for parameter in (*ours, *theirs):
            parameter.grad = parameter.detach().clone()
        norm = clip_gradients(ours, most)
        expected = nn.utils.clip_grad_norm_(theirs, most)
        torch.testing.assert_close(norm, expected)
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one.grad, other.grad)


def _wide() -> dict[str, Any]:
    return {
        "vocab_size": 96, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    }  # fmt: skip


class TestOffloadedActivations:
    def test_readers_of_one_tensor_share_its_copy(self) -> None:
        copies: list[torch.Tensor] = []

        def copy(tensor: torch.Tensor) -> torch.Tensor:
            copies.append(tensor.clone())
            return copies[-1]

        weight = torch.randn(8, 8, requires_grad=True)
        plain = ((weight * 2).sigmoid() ** 2).sum()
        plain.backward()
        expected, weight.grad = weight.grad, None
        store = OffloadedTensors(lambda tensor: tensor.data_ptr() == weight.data_ptr(), copy)
        with torch.autograd.graph.saved_tensors_hooks(store.pack, unpack):
            twice = weight * 2
            squashed = twice.sigmoid()  # saves its output, which the square saves as its input
            loss = (squashed.view(64) ** 2).sum()
            _ = weight.exp().detach(), weight**2  # which saves the weight itself
        assert len(copies) == 2  # the exponential's too
        loss.backward()
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, expected)

    def test_another_tensor_at_the_same_address_has_a_copy_of_its_own(self) -> None:
        store = OffloadedTensors(lambda tensor: False, torch.clone)
        packed = []
        for value in range(20):
            packed.append(store.pack(torch.full((1000,), float(value))))
        assert [float(unpack(one)[0]) for one in packed] == list(range(20))

    def test_what_was_changed_in_place_is_copied_again(self) -> None:
        store, tensor = OffloadedTensors(lambda tensor: False, torch.clone), torch.zeros(4)
        before = store.pack(tensor)
        tensor.add_(1)
        assert float(unpack(store.pack(tensor))[0]) == 1
        assert float(unpack(before)[0]) == 0


@pytest.mark.parametrize(
    "fields",
    [{"precision": "fp8"}, {"quantization_aware": "int8"}, {"adaptation": "lora", "base_weights": "int8"}],
)
def test_layers_without_linears_are_refused_where_linears_are_to_change(fields: dict[str, Any]) -> None:
    built = build(TINY["llama"], TrainingConfig(sequence_length=16), torch.float32, seed=0)
    for layer in built.layers:
        for name, module in list(layer.named_modules()):
            if isinstance(module, nn.Linear):
                owner, _, leaf = name.rpartition(".")
                setattr(layer.get_submodule(owner), leaf, nn.Identity())
    config = TrainingConfig(**{"precision": "fp32", "sequence_length": 16, **fields})
    with pytest.raises(ModelUnusable, match=r"no nn\.Linear"):
        modify(built, config, COMPUTED, CPU)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"precision": "fp8"}, "multiple of 16"),
        ({"quantization_aware": "int4"}, "multiple of 32"),
        ({"adaptation": "lora", "base_weights": "int4"}, "odd number"),
    ],
)
def test_sides_that_a_format_does_not_take_are_refused(fields: dict[str, Any], why: str) -> None:
    sizes = {"hidden_size": 36, "intermediate_size": 61, "head_dim": 6}
    config = TrainingConfig(**{"precision": "fp32", "sequence_length": 16, **fields})
    built = build(hf_model("llama", **{**DECODER, **sizes}), config, torch.float32, seed=0)
    with pytest.raises(ModelUnusable, match=why):
        modify(built, config, COMPUTED, CPU)


def test_eight_bits_round_rows_of_any_length() -> None:
    model = hf_model("llama", **{**DECODER, "hidden_size": 36, "head_dim": 6})
    plain, rounded = made(model), made(model, quantization_aware="int8")
    assert loss_of(plain) != loss_of(rounded)


def test_weights_that_a_family_does_not_initialise_are_those_of_the_seed() -> None:
    """Of routers, for one, transformers leaves some as they are."""
    models = [
        made(
            hf_model(
                "qwen3_next",
                **DECODER,
                head_dim=8,
                layer_types=["linear_attention", "full_attention"],
                num_experts=4,
                num_experts_per_tok=2,
                moe_intermediate_size=32,
                shared_expert_intermediate_size=32,
                linear_num_key_heads=2,
                linear_num_value_heads=4,
                linear_key_head_dim=8,
                linear_value_head_dim=8,
            )
        )
        for _ in range(2)
    ]
    ours, theirs = (dict(built.module.named_parameters()) for built in models)
    gates = [name for name in ours if name.endswith("mlp.gate.weight")]
    assert gates
    assert all(0.01 < ours[name].std() < 0.04 for name in gates)
    for name, parameter in ours.items():
        torch.testing.assert_close(parameter, theirs[name], rtol=0, atol=0)
