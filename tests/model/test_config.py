"""config.json files of the published models, old and new ways of writing, and everything that is refused."""

import json

import pytest

from tpi_mpi.common.errors import UserError
from tpi_mpi.model.config import ModelConfig
from weights_tools.synthesis.shapes import SHAPES

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "vocab_size": 131,
}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# What published files carry besides the keys that matter.
PUBLISHED = {
    "llama-3.2": {
        **SHAPES["llama-3.1-8b"],
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "eos_token_id": [128001, 128008, 128009],
        "head_dim": 128,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "rope_scaling": LLAMA3_SCALING,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0.dev0",
        "use_cache": True,
    },
    "smollm2": {
        **LLAMA,
        "is_llama_config": True,
        "rope_interleaved": False,
        "rope_scaling": None,
        "rope_theta": 100000,
        "transformers.js_config": {"dtype": "q4"},
    },
    "deepseek-r1-distill-qwen": {**SHAPES["qwen2.5-7b"], "use_mrope": False, "sliding_window": 4096},
    "qwen2.5-instruct": {
        **SHAPES["qwen2.5-7b"],
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    },
    "qwen3": {**SHAPES["qwen3-8b"], "attention_bias": False, "max_window_layers": 36, "sliding_window": None},
    "mistral-nemo": {**SHAPES["mistral-7b"], "head_dim": 128, "hidden_size": 5120, "sliding_window": None},
    "phi-3.5": {
        **SHAPES["phi-3-mini"],
        "attention_bias": False,
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
        "embd_pdrop": 0.0,
        "max_position_embeddings": 131072,
        "resid_pdrop": 0.0,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48},
    },
}


def read(**changes) -> ModelConfig:
    return ModelConfig.from_keys({**LLAMA, **changes})


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_understood(name):
    config = ModelConfig.from_keys(PUBLISHED[name])
    assert config.num_attention_heads % config.num_key_value_heads == 0


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_that_synth_knows_is_understood(name):
    assert ModelConfig.from_keys(SHAPES[name]).num_hidden_layers == SHAPES[name]["num_hidden_layers"]


def test_old_and_new_ways_of_writing_rope_settings_mean_the_same():
    old = read(rope_theta=500000.0, rope_scaling=LLAMA3_SCALING)
    new = read(rope_parameters={**LLAMA3_SCALING, "rope_theta": 500000.0})
    older = read(rope_theta=500000.0, rope_scaling={**LLAMA3_SCALING, "type": "llama3"})
    assert old.rope == new.rope == older.rope
    assert old.rope.rope_theta == 500000.0


def test_the_oldest_way_names_only_a_type_and_a_factor():
    rope = read(rope_scaling={"type": "linear", "factor": 4}).rope
    assert (rope.rope_type, rope.factor) == ("linear", 4.0)


def test_phi3_knew_longrope_by_other_names():
    keys = PUBLISHED["phi-3.5"]
    for name in ("su", "yarn"):
        scaling = {**keys["rope_scaling"], "type": name}
        assert ModelConfig.from_keys({**keys, "rope_scaling": scaling}).rope.rope_type == "longrope"


def test_the_trained_length_at_the_top_level_counts_first():
    config = ModelConfig.from_keys(PUBLISHED["phi-3.5"])
    assert config.rope.original_max_position_embeddings == 4096
    assert (
        read(
            max_position_embeddings=77, rope_scaling={"type": "yarn", "factor": 2}
        ).rope.original_max_position_embeddings
        == 77
    )


def test_silence_means_what_the_family_means():
    config = read()
    assert config.num_key_value_heads == 8
    assert config.head_dim == 8
    assert config.rope.rope_theta == 10000.0
    assert config.eos_token_id == (2,)
    assert read(model_type="mistral").num_key_value_heads == 8
    assert read(model_type="qwen3").head_dim == 128
    assert read(model_type="qwen2").qkv_bias
    assert not read(model_type="qwen2").output_bias


def test_sliding_windows_by_layer():
    assert read(model_type="mistral", sliding_window=6).sliding_windows == (6,) * 4
    assert read(model_type="mistral", sliding_window=None).sliding_windows == (None,) * 4
    qwen = {"model_type": "qwen2", "sliding_window": 5, "max_window_layers": 1}
    assert read(**qwen, use_sliding_window=True).sliding_windows == (None, 5, 5, 5)
    assert read(**qwen, use_sliding_window=False).sliding_windows == (None,) * 4
    types = ["sliding_attention", "full_attention"] * 2
    assert read(**qwen, use_sliding_window=True, layer_types=types).sliding_windows == (5, None, 5, None)


def test_dynamic_scaling_extends_the_context():
    assert read(max_position_embeddings=100).context_length == 100
    assert read(max_position_embeddings=100, rope_scaling={"type": "dynamic", "factor": 2.0}).context_length == 200


REFUSED = [
    ({"model_type": "gpt2"}, "model_type 'gpt2'; the supported ones are llama, mistral, qwen2, qwen3, phi3"),
    ({"model_type": ["llama"]}, "the supported ones are"),
    ({"logit_scale": 2.0}, "the key 'logit_scale' = 2.0, which is not understood for llama"),
    ({"use_rope": False}, "the key 'use_rope' = False, which is not understood"),
    ({"use_mrope": True}, "the key 'use_mrope' = True, which is not understood"),
    ({"model_type": "qwen2", "mlp_bias": True}, "'mlp_bias' = True, which is not understood for qwen2"),
    ({"sliding_window": 6}, "'sliding_window' = 6, which is not understood for llama"),
    ({"hidden_size": 0}, "hidden_size = 0; a positive whole number"),
    ({"hidden_size": "64"}, "hidden_size = '64'; a positive whole number"),
    ({"num_hidden_layers": True}, "num_hidden_layers = True; a positive whole number"),
    ({"num_key_value_heads": 3}, "which 3 num_key_value_heads do not divide"),
    ({"hidden_size": 65}, "hidden_size 65, which 8 num_attention_heads do not divide"),
    ({"head_dim": 7}, "needs an even one"),
    ({"hidden_act": "mish"}, "hidden_act 'mish'; the supported ones are"),
    ({"rms_norm_eps": float("nan")}, "a positive number is needed"),
    ({"tie_word_embeddings": "yes"}, "true or false is needed"),
    ({"eos_token_id": -1}, "one token id or a list of them"),
    ({"eos_token_id": [1, "2"]}, "one token id or a list of them"),
    ({"rope_scaling": {"type": "spiral", "factor": 2}}, "rope_type 'spiral'; the supported ones are"),
    ({"rope_scaling": {"type": ["linear"]}}, "the supported ones are"),
    ({"rope_scaling": {"type": "linear"}}, "factor = None; a positive number"),
    ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor = '2'; a positive number"),
    ({"rope_scaling": {"type": "linear", "factor": 2, "beta_fast": 1}}, "'beta_fast' in its rope settings"),
    ({"rope_scaling": 2}, "rope_scaling = 2; an object is needed"),
    ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5, which"),
    ({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}}, "a list of 4 numbers"),
    ({"rope_scaling": {"type": "yarn", "factor": 2, "truncate": 1}}, "truncate = 1; true or false"),
    (
        {"model_type": "qwen2", "layer_types": ["full_attention"]},
        "a list of 4 items, each full_attention or sliding_attention, is needed",
    ),
    ({"model_type": "qwen2", "layer_types": 3}, "4 items, each full_attention or sliding_attention"),
    ({"model_type": "qwen2", "layer_types": [["full_attention"]] * 4}, "4 items, each full_attention or"),
    ({"attention_bias": "false"}, "attention_bias = 'false'; true or false is needed"),
    ({"mlp_bias": 0}, "mlp_bias = 0; true or false is needed"),
    ({"model_type": "qwen2", "use_sliding_window": "no"}, "use_sliding_window = 'no'; true or false is needed"),
    ({"model_type": "qwen2", "max_window_layers": "2"}, "max_window_layers = '2'; a whole number is needed"),
    ({"model_type": "mistral", "sliding_window": 0}, "sliding_window = 0; a positive whole number"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED)
def test_what_is_not_understood_is_refused(changes, words):
    with pytest.raises(UserError) as refusal:
        read(**changes)
    assert words in str(refusal.value)
    assert str(refusal.value).startswith("config.json ")


def test_keys_that_begin_with_an_underscore_are_transformers_own():
    assert read(_model_name_or_path="/home/me/model", _anything_else={"a": 1}).hidden_size == LLAMA["hidden_size"]


def test_a_key_that_is_not_understood_may_be_ignored_by_name():
    with pytest.raises(UserError, match="if you know that it changes nothing, split with --ignore-key tuned_by"):
        read(tuned_by="me")
    config = ModelConfig.from_keys({**LLAMA, "tuned_by": "me"}, ignored=["tuned_by"])
    assert config == read()
    assert "tuned_by" not in config.keys


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_how_the_files_store_weights_is_left_to_who_reads_them(key):
    config = read(**{key: {"bits": 4}})
    assert config.keys[key] == {"bits": 4}


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("rms_norm_eps", "'rms_norm_eps', which is understood and cannot be ignored"),
        ("quantization_config", "'quantization_config', which is understood and cannot be ignored"),
        ("architectures", "'architectures', which is understood and cannot be ignored"),
        ("spelt_wrong", "has no key 'spelt_wrong' to ignore"),
    ],
)
def test_only_what_is_there_and_not_understood_may_be_ignored(key, words):
    keys = {**LLAMA, "rms_norm_eps": 1e-5, "quantization_config": {"bits": 4}, "architectures": ["A"]}
    with pytest.raises(UserError, match=words):
        ModelConfig.from_keys(keys, ignored=[key])


@pytest.mark.parametrize(
    ("content", "words"), [(None, "does not exist"), ("{", "as JSON"), ("[]", "not a JSON object")]
)
def test_a_file_that_is_no_config_is_refused(tmp_path, content, words):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=words):
        ModelConfig.load(path)


def test_the_keys_are_kept_as_they_were(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["qwen3"]))
    config = ModelConfig.load(tmp_path / "config.json")
    assert ModelConfig.from_keys(json.loads(json.dumps(config.keys))) == config
