"""config.json files of the published models, old and new ways of writing, and everything that is refused."""

import json
from dataclasses import replace

import pytest

from tpi_mpi.common.errors import UserError
from tpi_mpi.kernels.experts.routing import Routing
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.model.families import FAMILIES
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
SLIDING_OR_FULL = ["sliding_attention", "full_attention"]
GPT_OSS = {
    "model_type": "gpt_oss",
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": 200002,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 2880,
    "max_position_embeddings": 131072,
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_key_value_heads": 8,
    "output_router_logits": False,
    "pad_token_id": 199999,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
    },
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "transformers_version": "4.55.0.dev0",
    "use_cache": True,
    "vocab_size": 201088,
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
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "decoder_sparse_step": 1,
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 6144,
        "max_position_embeddings": 40960,
        "max_window_layers": 48,
        "mlp_only_layers": [],
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
        "output_router_logits": False,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.001,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "mixtral-8x7b-instruct": {
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "output_router_logits": False,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.02,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.36.0.dev0",
        "use_cache": True,
        "vocab_size": 32000,
    },
    "gpt-oss-20b": {**GPT_OSS, "num_hidden_layers": 24, "num_local_experts": 32, "layer_types": SLIDING_OR_FULL * 12},
    "gpt-oss-120b": {**GPT_OSS, "num_hidden_layers": 36, "num_local_experts": 128, "layer_types": SLIDING_OR_FULL * 18},
    "glm-4.5-air": {
        "model_type": "glm4_moe",
        "architectures": ["Glm4MoeForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": [151329, 151336, 151338],
        "first_k_dense_replace": 1,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 10944,
        "max_position_embeddings": 131072,
        "moe_intermediate_size": 1408,
        "n_group": 1,
        "n_routed_experts": 128,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 96,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 46,
        "num_key_value_heads": 8,
        "num_nextn_predict_layers": 1,
        "pad_token_id": 151329,
        "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "routed_scaling_factor": 1.0,
        "tie_word_embeddings": False,
        "topk_group": 1,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.54.0",
        "use_cache": True,
        "use_qk_norm": False,
        "vocab_size": 151552,
    },
}


MOE = {"model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}


def read(**changes) -> ModelConfig:
    return ModelConfig.from_keys({**LLAMA, **changes})


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_understood(name):
    config = ModelConfig.from_keys(PUBLISHED[name])
    assert config.num_attention_heads % config.num_key_value_heads == 0


# The router, the columns of an expert and of the shared one, and the layers with experts.
EXPERTS = {
    "qwen3-30b-a3b": (Routing(128, 8, "softmax"), 768, 0, range(48)),
    "mixtral-8x7b-instruct": (Routing(8, 2, "softmax"), 14336, 0, range(32)),
    "gpt-oss-20b": (Routing(32, 4, "softmax of chosen"), 2880, 0, range(24)),
    "gpt-oss-120b": (Routing(128, 4, "softmax of chosen"), 2880, 0, range(36)),
    "glm-4.5-air": (Routing(128, 8, "sigmoid"), 1408, 1408, range(1, 46)),
}


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_are_those_of_the_published_files(name):
    config = ModelConfig.from_keys(PUBLISHED[name])
    routing, width, shared, layers = EXPERTS[name]
    assert (config.experts.routing, config.experts.width, config.experts.shared_width) == (routing, width, shared)
    assert [layer for layer in range(config.num_hidden_layers) if config.has_experts(layer)] == list(layers)
    assert config.has_columns == (name == "glm-4.5-air")
    assert config.experts.biases == name.startswith("gpt-oss")
    assert config.experts.correction == (name == "glm-4.5-air")


def test_the_attention_of_models_with_experts_is_that_of_the_published_files():
    names = ("qwen3-30b-a3b", "glm-4.5-air", "gpt-oss-20b")
    qwen, glm, oss = (ModelConfig.from_keys(PUBLISHED[name]) for name in names)
    assert (qwen.qk_norm, qwen.qkv_bias, set(qwen.sliding_windows)) == (True, False, {None})
    assert (glm.qk_norm, glm.qkv_bias, glm.output_bias, glm.rope.partial_rotary_factor) == (False, True, False, 0.5)
    assert (oss.qkv_bias, oss.output_bias, oss.sliding_windows) == (True, True, (128, None) * 12)
    assert (oss.activation, oss.alpha, oss.limit, oss.family.sinks) == ("clamped_swiglu", 1.702, 7.0, True)
    assert (oss.rope.factor, oss.rope.truncate, oss.rope.original_max_position_embeddings) == (32.0, False, 4096)


def test_dense_layers_among_experts():
    def layers(**changes) -> list[int]:
        config = read(**{**MOE, **changes})
        return [layer for layer in range(4) if config.has_experts(layer)]

    assert layers() == [0, 1, 2, 3]
    assert layers(mlp_only_layers=[0, 2]) == [1, 3]
    assert layers(decoder_sparse_step=2) == [1, 3]
    assert layers(decoder_sparse_step=2, mlp_only_layers=[3]) == [1]
    glm = read(model_type="glm4_moe", first_k_dense_replace=3)
    assert glm.experts.layers == (False, False, False, True)
    assert read(**MOE, mlp_only_layers=[0, 1, 2, 3]).experts is None
    assert read(model_type="glm4_moe", first_k_dense_replace=4).experts is None
    assert read(**{**MOE, "num_experts": None}, num_local_experts=16).experts.count == 16
    assert read(model_type="glm4_moe", n_shared_experts=3, moe_intermediate_size=48).experts.shared_width == 144


@pytest.mark.parametrize("model_type", FAMILIES)
def test_where_a_file_is_silent_transformers_means_the_same(model_type):
    """The same sizes, read by themselves and as transformers writes them with all that it takes for granted."""
    from transformers import AutoConfig

    sizes = {**LLAMA, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 256, "num_hidden_layers": 40}
    if model_type == "phi3":
        sizes["pad_token_id"] = 0  # transformers' own is beyond this vocabulary
    sizes["model_type"] = model_type
    written = AutoConfig.for_model(**sizes).to_diff_dict()
    silent, spoken = (ModelConfig.from_keys(keys) for keys in (sizes, written))
    assert len(written) > len(sizes)
    assert replace(silent, keys={}) == replace(spoken, keys={})


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
    ({**MOE, "num_experts_per_tok": 9}, "num_experts_per_tok 9, but only 8 experts"),
    ({"model_type": "mixtral", "num_local_experts": 1}, "num_experts_per_tok 2, but only 1 experts"),
    ({**MOE, "num_local_experts": 16}, "num_experts 8, but num_local_experts 16; remove the wrong one"),
    ({**MOE, "num_experts": 0}, "num_experts = 0; a positive whole number"),
    ({**MOE, "mlp_only_layers": 2}, "mlp_only_layers = 2; a list of layers is needed"),
    ({**MOE, "decoder_sparse_step": 0}, "decoder_sparse_step = 0; a positive whole number"),
    ({**MOE, "norm_topk_prob": 1}, "norm_topk_prob = 1; true or false"),
    ({**MOE, "n_shared_experts": 1}, "'n_shared_experts' = 1, which is not understood for qwen3_moe"),
    ({"model_type": "qwen3", "num_experts": 8}, "'num_experts' = 8, which is not understood for qwen3"),
    ({"model_type": "mixtral", "shared_expert_intermediate_size": 9}, "which is not understood for mixtral"),
    ({"model_type": "glm4_moe", "n_group": 8}, "n_group 8; experts in groups are not supported, only 1"),
    ({"model_type": "glm4_moe", "topk_group": 4}, "topk_group 4; experts in groups are not supported, only 1"),
    ({"model_type": "glm4_moe", "first_k_dense_replace": "1"}, "first_k_dense_replace = '1'; a whole number"),
    ({"model_type": "glm4_moe", "routed_scaling_factor": 0}, "routed_scaling_factor = 0; a positive number"),
    ({"model_type": "glm4_moe", "scoring_func": "softmax"}, "'scoring_func' = 'softmax', which is not understood"),
    ({"model_type": "gpt_oss", "experts_per_token": 2}, "experts_per_token 2, but another num_experts_per_tok"),
    ({"model_type": "gpt_oss", "swiglu_limit": "7"}, "swiglu_limit = '7'; a positive number"),
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
