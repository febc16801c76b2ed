"""Laws of what is quantized: config.json and the files must agree, and every tensor must be accounted for."""

import json

import published
import pytest
import torch
from published import Quantized, awq_config, compressed_config, float8, fp8_config, gptq_config
from safetensors.torch import save_file

from tpi_mpi.common.errors import UserError
from weights_tools.quantized.quantization import Quantization, read_method
from weights_tools.tensors.stored import stored_tensors

SHAPE = (24, 256)
LAYER = "model.layers.0."
UP, DOWN, HEAD = f"{LAYER}mlp.up_proj", f"{LAYER}mlp.down_proj", "lm_head"
SHAPES = {f"{module}.weight": SHAPE for module in (UP, DOWN, HEAD)}
TRUTH = Quantized.random(SHAPE)
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}


def tensors_of(**parts) -> dict[str, torch.Tensor]:
    """The head in numbers, and two quantized modules unless others are given."""
    modules = parts or {UP: published.gptq(TRUTH), DOWN: published.gptq(TRUTH)}
    tensors = {f"{module}.{suffix}": tensor for module, parts in modules.items() for suffix, tensor in parts.items()}
    return {"lm_head.weight": torch.zeros(SHAPE), **tensors}


def quantization(tensors: dict, config: dict, path) -> Quantization:
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path / "a.safetensors")
    return Quantization.of({"quantization_config": config}, SHAPES, stored_tensors(path / "a.safetensors"))


def refused(tensors: dict, config: dict, path, match: str) -> None:
    with pytest.raises(UserError, match=match):
        quantization(tensors, config, path)


def test_the_files_show_what_is_quantized(tmp_path):
    found = quantization(tensors_of(), gptq_config(), tmp_path)
    assert set(found.matrices) == {f"{UP}.weight", f"{DOWN}.weight"}
    assert found.names == {f"{m}.{suffix}" for m in (UP, DOWN) for suffix in ("qweight", "qzeros", "scales", "g_idx")}


@pytest.mark.parametrize("config", [{}, {"quantization_config": None}, {"compression_config": {}}])
def test_most_checkpoints_are_not_quantized(config):
    found = Quantization.of(config, SHAPES, {})
    assert found.matrices == {}
    assert found.names == set()


@pytest.mark.parametrize("part", ["qweight", "qzeros", "scales"])
def test_a_missing_tensor_is_named(part, tmp_path):
    tensors = tensors_of()
    del tensors[f"{DOWN}.{part}"]
    refused(tensors, gptq_config(), tmp_path, rf"lacks the tensor {DOWN}\.{part}, without which")


def test_a_missing_scale_of_float8_is_named(tmp_path):
    codes, _, _ = float8(SHAPE, (128, 128))
    tensors = tensors_of(**{UP: {"weight": codes}})
    refused(tensors, fp8_config(), tmp_path, rf"lacks the tensor {UP}\.weight_scale_inv, without which")


@pytest.mark.parametrize("name", [
    "model.layers.7.mlp.up_proj.qzeros",
    "lm_head.scales",
    f"{UP}.weight_scale",
    f"{UP}.weight_zero_point",
    "model.norm.weight_scale_inv",
])  # fmt: skip
def test_a_tensor_that_nobody_uses_is_named(name, tmp_path):
    tensors = {**tensors_of(), name: torch.zeros(8, 24)}
    refused(tensors, gptq_config(), tmp_path, name.rpartition(".")[0].replace(".", r"\."))


def test_a_second_kind_of_scales_is_named(tmp_path):
    codes, scales, _ = float8(SHAPE, (128, 128))
    tensors = tensors_of(**{UP: {"weight": codes, "weight_scale_inv": scales, "weight_scale": scales}})
    refused(tensors, fp8_config(), tmp_path, rf"{UP}\.weight_scale_inv, which belongs to no quantized matrix")


def test_a_weight_that_is_there_twice_is_named(tmp_path):
    tensors = {**tensors_of(), f"{UP}.weight": torch.zeros(SHAPE)}
    refused(tensors, gptq_config(), tmp_path, rf"has {UP}\.weight twice, also as {UP}\.qweight")


@pytest.mark.parametrize(("part", "value", "match"), [
    ("qweight", torch.zeros(31, 24, dtype=torch.int32), r"has shape \(31, 24\), but config.json promises \(32, 24\)"),
    ("qweight", torch.zeros(32, 24, dtype=torch.int64), "has dtype I64; the supported ones are I32"),
    ("scales", torch.zeros(4, 24), r"has shape \(4, 24\), but config.json promises \(8, 24\)"),
    ("scales", torch.zeros(8, 24, dtype=torch.int32), "has dtype I32; the supported ones are F16, BF16, F32"),
    ("g_idx", torch.zeros(256, dtype=torch.int32), "does not deal its inputs to 8 groups"),
    ("g_idx", torch.arange(256, dtype=torch.int32), "does not deal its inputs to 8 groups"),
])  # fmt: skip
def test_what_config_json_does_not_promise_is_refused(part, value, match, tmp_path):
    refused({**tensors_of(), f"{UP}.{part}": value}, gptq_config(), tmp_path, match)


def test_the_order_that_desc_act_means_must_be_there(tmp_path):
    tensors = tensors_of()
    del tensors[f"{UP}.g_idx"], tensors[f"{DOWN}.g_idx"]
    assert quantization(tensors, gptq_config(), tmp_path).matrices
    refused(tensors, gptq_config(desc_act=True), tmp_path, rf"lacks the tensor {UP}\.g_idx, without which")


def test_zero_points_must_be_there_unless_symmetric(tmp_path):
    tensors = tensors_of(**{UP: published.pack_quantized(TRUTH, symmetric=True)})
    refused(tensors, weights(symmetric=False), tmp_path, rf"lacks the tensor {UP}\.weight_zero_point, without which")


@pytest.mark.parametrize("order", ["group", "dynamic", True])
def test_the_order_that_actorder_means_must_be_there(order, tmp_path):
    tensors = tensors_of(**{UP: published.pack_quantized(TRUTH)})
    refused(tensors, weights(actorder=order), tmp_path, rf"lacks the tensor {UP}\.weight_g_idx, without which")
    for harmless in ("weight", "static", False, None):
        assert quantization(tensors, weights(actorder=harmless), tmp_path).matrices


def test_another_shape_than_the_files_say_is_refused(tmp_path):
    parts = {**published.pack_quantized(TRUTH), "weight_shape": torch.tensor([24, 255])}
    config = compressed_config("pack-quantized", INT4)
    refused(tensors_of(**{UP: parts}), config, tmp_path, r"says \(24, 255\), but config.json promises \(24, 256\)")


@pytest.mark.parametrize("names", [["up_proj"], [UP], ["mlp"], ["layers.0"]])
@pytest.mark.parametrize("config", [gptq_config, awq_config])
def test_a_module_that_config_json_excludes_must_be_plain(config, names, tmp_path):
    pack = {gptq_config: published.gptq, awq_config: published.awq}[config]
    tensors = tensors_of(**{UP: pack(TRUTH)})
    excluded = config(modules_to_not_convert=names)
    refused(tensors, excluded, tmp_path, f"says that {UP} is not quantized, but the checkpoint has {UP}.qweight")


def test_an_excluded_name_is_of_whole_parts(tmp_path):
    config = gptq_config(modules_to_not_convert=["up", "gate", "proj", "lm_head", "0.mlp.up"])
    assert len(quantization(tensors_of(), config, tmp_path).matrices) == 2


def test_biases_of_zeros_that_the_model_lacks_change_nothing(tmp_path):
    found = quantization({**tensors_of(), f"{UP}.bias": torch.zeros(24)}, gptq_config(), tmp_path)
    assert f"{UP}.bias" in found.names
    found = quantization({**tensors_of(), f"{UP}.bias": torch.ones(24)}, gptq_config(), tmp_path)
    assert f"{UP}.bias" not in found.names  # so that the checkpoint's reader refuses it


def test_scales_of_activations_are_accounted_for(tmp_path):
    names = {f"{UP}.input_scale", f"{LAYER}self_attn.k_scale", f"{LAYER}self_attn.v_scale"}
    tensors = {**tensors_of(), **{name: torch.tensor(1.0) for name in names}}
    assert names <= quantization(tensors, gptq_config(), tmp_path).names


GROUPS = {
    "exact": {"targets": [UP], "weights": {"num_bits": 8, "type": "int", "strategy": "channel"}},
    "class": {"targets": ["Linear"], "weights": INT4},
    "pattern": {"targets": ["re:.*down_proj$"], "weights": {**INT4, "num_bits": 8}},
}


def compressed(groups=GROUPS, **others) -> dict:
    return {**compressed_config("pack-quantized", INT4, **others), "config_groups": groups}


@pytest.mark.parametrize(("module", "dtype", "group"), [
    (UP, "int8", 0),
    (DOWN, "int8", 32),
    (f"{LAYER}self_attn.q_proj", "int4", 32),
])  # fmt: skip
def test_the_most_exact_target_counts(module, dtype, group):
    scheme = read_method({"quantization_config": compressed()}).scheme_of(module)
    assert (scheme.dtype, scheme.sharing.columns) == (dtype, group)


@pytest.mark.parametrize("ignore", [UP, "re:.*up_proj", "Linear"])
def test_what_is_ignored_must_be_plain(ignore, tmp_path):
    tensors = tensors_of(**{UP: published.pack_quantized(TRUTH)})
    match = f"says that {UP} is not quantized, but the checkpoint has {UP}.weight_packed"
    refused(tensors, compressed(ignore=[ignore]), tmp_path, match)


@pytest.mark.parametrize("ignore", [["lm_head"], ["up_proj", "re:up_proj"], []])
def test_what_is_not_ignored_is_quantized(ignore, tmp_path):
    config = compressed({"all": {"targets": ["Linear"], "weights": INT4}}, ignore=ignore)
    tensors = tensors_of(**{UP: published.pack_quantized(TRUTH)})
    assert set(quantization(tensors, config, tmp_path).matrices) == {f"{UP}.weight"}


def test_weights_that_were_never_compressed_are_refused(tmp_path):
    tensors = tensors_of(**{UP: {"weight": torch.zeros(SHAPE), "weight_scale": torch.ones(24, 8)}})
    match = rf"lacks the tensor {UP}\.weight_shape"
    refused(tensors, compressed(), tmp_path, match)


def test_compressed_tensors_once_wrote_a_compression_config():
    keys = {"compression_config": {**compressed(), "sparsity_config": {"format": "dense"}}}
    assert read_method(keys) == read_method({"quantization_config": compressed()})


def test_formats_of_groups_may_differ():
    groups = {
        "a": {"targets": [UP], "format": "pack-quantized", "weights": INT4},
        "b": {"targets": [DOWN], "format": "float-quantized", "weights": {"num_bits": 8, "type": "float"}},
        "c": {"targets": [HEAD], "weights": None, "input_activations": {"num_bits": 8}},
    }
    method = read_method({"quantization_config": {**compressed(groups), "format": "mixed-precision"}})
    assert [scheme.dtype for scheme in method.schemes] == ["int4", "float8"]


def weights(**values) -> dict:
    return compressed({"all": {"targets": ["Linear"], "weights": {**INT4, **values}}})


@pytest.mark.parametrize(("config", "match"), [
    ({"quant_method": "aqlm"}, "quant_method 'aqlm'; the supported ones are gptq, awq, compressed-tensors, fp8"),
    ({"bits": 4}, "quant_method None; the supported ones are gptq"),
    (gptq_config(3), "bits 3; the supported ones are 4, 8"),
    (gptq_config(None), "no bits; the supported ones are 4, 8"),
    (gptq_config(group=0), "group_size = 0; a positive whole number is needed"),
    (gptq_config(checkpoint_format="marlin"), "checkpoint_format 'marlin'; the supported ones are gptq, gptq_v2"),
    (gptq_config(checkpoint_format="gptq", format="gptq_v2"), "a format and another checkpoint_format"),
    (gptq_config(pack_dtype="int64"), "pack_dtype 'int64'; the supported ones are int32"),
    (gptq_config(dynamic={"-:.*": {}}), "the key 'dynamic' = .*, which is not understood"),
    (awq_config(bits=8), "bits 8; the supported ones are 4"),
    (awq_config(version="gemv"), "version 'gemv'; the supported ones are gemm"),
    (awq_config(modules_to_not_convert="lm_head"), "modules_to_not_convert = 'lm_head'; a list of names is needed"),
    (fp8_config(fmt="e5m2"), "fmt 'e5m2'; the supported ones are e4m3"),
    (fp8_config((128,)), r"weight_block_size = \[128\]; two whole numbers are needed"),
    (fp8_config((128, 0)), "two positive numbers are needed"),
    (fp8_config(expert_dtype="fp4"), "expert_dtype 'fp4'; the supported ones are fp8"),
    (compressed({}), "no config_groups with weights"),
    ({**compressed(), "format": "marlin-24"}, "format 'marlin-24'; the supported ones are pack-quantized"),
    ({**compressed(), "format": None}, "no format; the supported ones are pack-quantized"),
    ({**compressed(), "format": []}, r"format \[\]; the supported ones are pack-quantized"),
    ({**compressed(), "sparsity_config": {"format": "sparse-24-bitmask"}}, "the supported ones are dense"),
    ({**compressed(), "transform_config": {"config_groups": {"a": 1}}}, "key 'transform_config'"),
    (weights(num_bits=3), "num_bits 3; the supported ones are 4, 8"),
    (weights(type="float"), "type 'float'; the supported ones are int"),
    (weights(strategy="tensor_group"), "strategy 'tensor_group'; the supported ones are channel, group"),
    (weights(actorder="random"), "actorder 'random'; the supported ones are group, dynamic, weight, static"),
    (weights(symmetric="no"), "symmetric = 'no'; true or false is needed"),
    (weights(dynamic=True), "key 'dynamic' = True"),
    (weights(group_size=-2), "group_size = -2; a positive whole number is needed"),
    (compressed(ignore=["re:("]), r"has 're:\(' among its ignore, which is no regular expression"),
])  # fmt: skip
def test_what_is_not_understood_is_refused_by_name(config, match):
    with pytest.raises(UserError, match=match):
        read_method({"quantization_config": config})


def test_two_sections_are_refused():
    with pytest.raises(UserError, match="has both quantization_config and compression_config"):
        read_method({"quantization_config": gptq_config(), "compression_config": compressed()})


PUBLISHED = [
    """{"batch_size": 1, "bits": 4, "block_name_to_quantize": null, "cache_block_outputs": true, "damp_percent": 0.01,
    "dataset": null, "desc_act": false, "exllama_config": {"version": 1}, "group_size": 128, "max_input_length": null,
    "model_seqlen": null, "module_name_preceding_first_block": null, "modules_in_block_to_quantize": null,
    "pad_token_id": null, "quant_method": "gptq", "sym": true, "tokenizer": null, "true_sequential": true,
    "use_cuda_fp16": false, "use_exllama": true}""",
    """{"bits": 4, "checkpoint_format": "gptq", "desc_act": true, "dynamic": null, "group_size": 128, "lm_head": false,
    "meta": {"damp_auto_increment": 0.0015, "quantizer": ["gptqmodel:1.4.1"], "uri": "https://example.org"},
    "quant_method": "gptq", "sym": true, "pack_dtype": "int32"}""",
    """{"bits": 4, "group_size": 128, "modules_to_not_convert": null, "quant_method": "awq", "version": "gemm",
    "zero_point": true}""",
    """{"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "scale_fmt": "ue8m0",
    "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head", "model.layers.0.input_layernorm"]}""",
    """{"config_groups": {"group_0": {"input_activations": {"actorder": null, "block_structure": null, "dynamic": true,
    "group_size": null, "num_bits": 8, "observer": null, "observer_kwargs": {}, "strategy": "token", "symmetric": true,
    "type": "float"}, "output_activations": null, "targets": ["Linear"], "weights": {"actorder": null,
    "block_structure": null, "dynamic": false, "group_size": null, "num_bits": 8, "observer": "minmax",
    "observer_kwargs": {}, "strategy": "channel", "symmetric": true, "type": "float"}}}, "format": "float-quantized",
    "global_compression_ratio": 1.46, "ignore": ["lm_head"], "kv_cache_scheme": null,
    "quant_method": "compressed-tensors", "quantization_status": "compressed", "sparsity_config": {},
    "transform_config": {}, "version": "0.11.0"}""",
]


@pytest.mark.parametrize("text", PUBLISHED, ids=lambda text: json.loads(text)["quant_method"])
def test_published_ones_are_understood(text):
    assert read_method({"quantization_config": json.loads(text)})
