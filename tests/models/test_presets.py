"""Presets are what their authors published, down to the last parameter."""

import pytest

from autotune.errors import BadInput
from autotune.models import presets
from autotune.models.closed_form import shape_of
from autotune.models.hf import clean

PUBLISHED_PARAMETERS = {
    "gpt2": 124_439_808,
    "gpt2-xl": 1_557_611_200,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b": 7_248_023_552,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b": 30_532_122_624,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-3-1b": 999_885_952,
    "phi-3-mini": 3_821_079_552,
    "gpt-oss-20b": 20_914_757_184,
}


@pytest.mark.parametrize("name", presets.names())
def test_a_preset_is_the_model_that_transformers_builds(name, meta_parameters):
    cleaned = clean(presets.load(name), name)
    shape = shape_of(cleaned.config)
    assert cleaned.notes == (), "a preset holds nothing that has to be left out"
    assert shape.num_parameters == meta_parameters(cleaned.config)
    assert shape.num_parameters == PUBLISHED_PARAMETERS.get(name, shape.num_parameters)


def test_every_published_total_is_of_a_preset():
    assert set(PUBLISHED_PARAMETERS) <= set(presets.names())


def test_the_smallest_preset_suits_a_laptop():
    shape = shape_of(presets.load("llama-20m"))
    assert 20e6 < shape.num_parameters < 30e6


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(BadInput, match=r"'llama-3\.1-8b'"):
        presets.load("llama-3.1-8")
