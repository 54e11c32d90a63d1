"""What a model is, by building it; every way in which that fails is one sentence."""

import json
import textwrap

import pytest

from trials.contract.messages import ModelSpec
from trials.describe import CannotDescribe, describe, main


def hf(**config: object) -> ModelSpec:
    return ModelSpec(name="model", hf_config=config)


SMALL = {"num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 64}


def test_a_known_family_agrees_with_its_closed_form():
    from autotune.models.closed_form import shape_of

    config = {
        "model_type": "gpt_oss",
        **SMALL,
        "head_dim": 8,
        "num_key_value_heads": 2,
        "intermediate_size": 24,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "pad_token_id": None,
    }
    found = describe(hf(**config))
    expected = {name: size for name, size in vars(shape_of(config)).items() if name != "measured"}
    assert {name: found[name] for name in expected} == expected


def test_experts_that_begin_after_dense_layers_are_seen():
    experts = {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1}
    ranks = {
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
    }
    widths = {"intermediate_size": 80, "moe_intermediate_size": 24, "first_k_dense_replace": 1}
    found = describe(
        hf(model_type="deepseek_v3", num_key_value_heads=4, **SMALL, **experts, **ranks, **widths)
    )
    assert (found["num_layers"], found["num_experts"], found["experts_per_token"]) == (3, 8, 2)
    assert (found["intermediate_size"], found["gated_mlp"]) == (24, True)


def test_a_table_of_positions_longer_than_the_vocabulary_is_none_of_tokens():
    sizes = {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 500}
    found = describe(hf(model_type="opt", **SMALL, **sizes))
    assert (found["vocab_size"], found["max_positions"]) == (64, 500)
    assert found["other_parameters"] > 500 * 32


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "lama"}, "no model_type 'lama'; did you mean 'llama'?"),
        ({"model_type": "vit"}, "no causal language model for model_type 'vit'"),
        ({"model_type": "llama", "hidden_size": 30}, "cannot build this llama: "),
        ({"model_type": "llama", "hidden_act": "nonsense", **SMALL}, "nonsense"),
        ({"model_type": "llama", "cls": 1}, "cannot build this llama: TypeError"),
        ({"model_type": "deepseek_v32", "num_hidden_layers": 2**32}, "MemoryError"),  # a list of so many
    ],
)
def test_a_configuration_that_transformers_refuses(config, reason):
    with pytest.raises(CannotDescribe) as caught:
        describe(hf(**config))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


DECODER = """
class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.positions = nn.Embedding(900, 8)
        self.words = nn.Embedding(40, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

build = Decoder
"""


@pytest.fixture
def factory(tmp_path, monkeypatch):
    """Write a module `<name>` and describe `<name>:build`."""
    monkeypatch.setattr("sys.path", list(__import__("sys").path))

    def run(name: str, source: str):
        (tmp_path / f"{name}.py").write_text("from torch import nn\n" + textwrap.dedent(source))
        return describe(ModelSpec(name="model", factory=f"{name}:build", factory_path=str(tmp_path)))

    return run


def test_a_factory_of_many_gigabytes_is_built_without_memory(factory):
    found = factory(
        "large_factory",
        """
        def build():
            layers = [nn.Linear(1 << 13, 1 << 13) for _ in range(40)]
            return nn.Sequential(nn.Embedding(1 << 20, 1 << 13), nn.Sequential(*layers))
        """,
    )
    assert found["num_parameters"] == (1 << 33) + 40 * ((1 << 26) + (1 << 13))


def test_a_factory_that_needs_real_tensors_is_built_for_real(factory):
    found = factory(
        "real_factory",
        """
        def build():
            embedding = nn.Embedding(10, 4)
            assert embedding.weight.sum().item() == embedding.weight.sum().item()
            layers = nn.ModuleList([nn.Linear(4, 4)])
            return nn.ModuleDict({"tokens": embedding, "layers": layers, "head": nn.Linear(4, 10)})
        """,
    )
    assert (found["vocab_size"], found["num_parameters"], found["tied_embeddings"]) == (10, 110, False)
    assert "heads" in found["notes"][0]
    assert found["factory_version"] is None


def test_layers_in_a_sequential_with_experts_inside(factory):
    found = factory(
        "nested_factory",
        """
        class Layer(nn.Module):
            def __init__(self):
                super().__init__()
                self.num_heads, self.experts = 2, nn.ModuleList(nn.Linear(8, 8) for _ in range(30))

        def build():
            layers = nn.Sequential(*[Layer() for _ in range(3)])
            return nn.ModuleDict({"tokens": nn.Embedding(10, 8), "layers": layers})
        """,
    )
    assert (found["num_layers"], found["num_heads"]) == (3, 2)


@pytest.mark.parametrize(
    ("name", "source", "reason"),
    [
        (
            "raises",
            "def build(): raise RuntimeError('out of\\ncoffee')",
            "factory raises:build raised RuntimeError: out of coffee",
        ),
        ("exits", "def build(): raise SystemExit(3)", "factory exits:build raised SystemExit: 3"),
        (
            "leaves",
            "raise SystemExit('no thanks')",
            "cannot import factory leaves:build: SystemExit: no thanks",
        ),
        ("broken", "import no_such_package", "cannot import factory broken:build: ModuleNotFoundError"),
        ("lacks", "", "lacks has no callable 'build'"),
        ("constant", "build = 3", "constant has no callable 'build'"),
        ("other", "def build(): return [1]", "must return a torch.nn.Module, not list"),
        (
            "flat",
            "def build(): return nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4))",
            "no stack of equal layers",
        ),
        ("headless", "def build(): return nn.Linear(2, 2)", "has no nn.Embedding"),
    ],
)
def test_a_factory_that_fails_is_named_with_its_exception(factory, name, source, reason):
    with pytest.raises(CannotDescribe) as caught:
        factory(name, source)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_answer_is_written_as_json(tmp_path):
    spec, out = tmp_path / "spec.json", tmp_path / "out.json"
    spec.write_text(hf(model_type="llama", **SMALL).to_json())
    main(str(spec), str(out))
    assert json.loads(out.read_text())["num_layers"] == 3
    spec.write_text('{"name": "x"}')
    main(str(spec), str(out))
    assert "either a Hugging Face configuration or a factory" in json.loads(out.read_text())["error"]


def test_a_factorys_largest_embedding_may_be_of_positions(factory):
    assert factory("positioned", DECODER)["vocab_size"] == 40
