"""Laws of whole checkpoints that are quantized already: split keeps their weights, or makes any others of them."""

import json

import numpy as np
import published
import pytest
import torch
import zoo
from published import MODEL, Quantized, awq_config, compressed_config, fp8_config, gptq_config
from safetensors.torch import load_file, save_file
from together import Together

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.weights.slabs.directory import open_slabs
from tpi_mpi.weights.slabs.slab import Slab, formats_of
from weights_tools.split import split
from weights_tools.verify import verify


def integers(config: dict, to_parts, **how):
    def pack(weight: np.ndarray):
        matrix = Quantized.of(weight, **how)
        return to_parts(matrix), matrix.weight()

    return config, pack


def floats(config: dict, suffix: str, block):
    def pack(weight: np.ndarray):
        own = [each or length for each, length in zip(block, weight.shape, strict=True)]
        codes, scales, numbers = published.float8_of(weight, own)
        return {"weight": codes, suffix: scales}, numbers

    return config, pack


def compressed(format: str, bits: int, type: str = "int", **weights) -> dict:
    return compressed_config(format, {"num_bits": bits, "type": type, **weights})


GROUPS4 = compressed("pack-quantized", 4, strategy="group", group_size=32, symmetric=False)
ROWS8 = compressed("int-quantized", 8, strategy="channel")
FLOATS = compressed("float-quantized", 8, "float", strategy="channel")
CASES = {
    "gptq": ("int4 by 32", integers(gptq_config(), published.gptq, symmetric=True)),
    "gptq-8": ("int8 by 64 with zero points", integers(gptq_config(8, 64), published.gptq, bits=8, group=64)),
    "gptq-256": ("int4 by 128 with zero points", integers(gptq_config(4, 256), published.gptq, group=256)),
    "gptq-rows": ("int4 by rows with zero points", integers(gptq_config(4, -1), published.gptq, group=-1)),
    "awq": ("int4 by 32 with zero points", integers(awq_config(), published.awq)),
    "compressed-int4": ("int4 by 32 with zero points", integers(GROUPS4, published.pack_quantized)),
    "compressed-int8": (
        "int8 by rows with zero points",
        integers(ROWS8, published.int_quantized, bits=8, group=-1),
    ),
    "fp8": ("float8 by 64", floats(fp8_config((24, 64)), "weight_scale_inv", (24, 64))),
    "compressed-fp8": ("float8 by rows", floats(FLOATS, "weight_scale", (1, 0))),
}
"""What split --dtype keep makes of each, and how it is written."""

DESC_ACT = integers(gptq_config(desc_act=True), published.gptq, shuffled=True)


@pytest.fixture
def float32_cache(monkeypatch):
    """So that nothing but the weights is rounded."""
    monkeypatch.setattr(Slab, "kv_dtype", "float32")


def check_answers(slabs, ranks: int, expected: list[dict]) -> None:
    for answer in expected:
        with Together(slabs, ranks) as together:
            token_ids, logprobs = together.greedy(answer["prompt"], len(answer["token_ids"]))
        assert token_ids == answer["token_ids"]
        np.testing.assert_allclose(logprobs, answer["logprobs"], atol=1e-3)


@pytest.mark.usefixtures("float32_cache")
@pytest.mark.parametrize("case", CASES)
def test_kept_weights_answer_as_transformers_with_them_dequantized(case, checkpoints, tmp_path, capsys):
    format, (config, pack) = CASES[case]
    expected = zoo.answers_with(
        checkpoints["llama"], published.publish(checkpoints["llama"], tmp_path / "checkpoint", config, pack)
    )
    for ranks in ("1", "4 --ratios 1,2,3,1"):
        slabs = tmp_path / ranks[0]
        split([str(tmp_path / "checkpoint"), str(slabs), "--ranks", *ranks.split()])
        verify([str(slabs), "--checkpoint", str(tmp_path / "checkpoint")])
        assert "slabs are intact and equal the checkpoint\n" in capsys.readouterr().err
        assert open_slabs(slabs)[0].formats["layers"] == format
    check_answers(slabs, int(ranks[0]), expected)


@pytest.mark.usefixtures("float32_cache")
def test_fused_projections_are_kept(checkpoints, tmp_path):
    _, (config, pack) = CASES["awq"]
    weights = published.publish(checkpoints["phi3"], tmp_path / "checkpoint", config, pack)
    split([str(tmp_path / "checkpoint"), str(tmp_path / "slabs"), "--ranks", "3"])
    verify([str(tmp_path / "slabs"), "--checkpoint", str(tmp_path / "checkpoint")])
    check_answers(tmp_path / "slabs", 3, zoo.answers_with(checkpoints["phi3"], weights))


@pytest.mark.usefixtures("float32_cache")
@pytest.mark.parametrize("case", ["gptq-8", "awq", "fp8", "desc_act"])
def test_as_float32_they_answer_the_same(case, checkpoints, tmp_path):
    config, pack = DESC_ACT if case == "desc_act" else CASES[case][1]
    weights = published.publish(checkpoints["qwen2"], tmp_path / "checkpoint", config, pack)
    split([str(tmp_path / "checkpoint"), str(tmp_path / "slabs"), "--ranks", "2", "--dtype", "float32"])
    verify([str(tmp_path / "slabs"), "--checkpoint", str(tmp_path / "checkpoint")])
    check_answers(tmp_path / "slabs", 2, zoo.answers_with(checkpoints["qwen2"], weights))


@pytest.mark.parametrize("options", ["--dtype bfloat16", "--dtype int4 --zero-points", "--dtype int8 --group 128"])
@pytest.mark.parametrize("case", ["gptq-rows", "compressed-int4", "fp8"])
def test_they_become_any_other_format(case, options, checkpoints, tmp_path, capsys):
    published.publish(checkpoints["llama"], tmp_path / "checkpoint", *CASES[case][1])
    split([str(tmp_path / "checkpoint"), str(tmp_path / "slabs"), "--ranks", "2", *options.split()])
    verify([str(tmp_path / "slabs"), "--checkpoint", str(tmp_path / "checkpoint")])
    assert "equal the checkpoint" in capsys.readouterr().err
    format = formats_of(open_slabs(tmp_path / "slabs")[0]).sources["model.layers.0.mlp.up_proj.weight"]
    assert format.dtype == options.split()[1]


@pytest.mark.parametrize("options", [[], ["--head-dtype", "bfloat16"]])
def test_what_cannot_be_kept_is_refused_with_the_remedy(options, checkpoints, tmp_path):
    published.publish(checkpoints["llama"], tmp_path / "checkpoint", *DESC_ACT)
    with pytest.raises(UserError, match=r"q_proj\.weight cannot be kept as it is: .* use --dtype int4 or bfloat16"):
        split([str(tmp_path / "checkpoint"), str(tmp_path / "slabs"), "--ranks", "2", *options])
    assert not (tmp_path / "slabs").exists()
    split([str(tmp_path / "checkpoint"), str(tmp_path / "slabs"), "--ranks", "2", "--dtype", "int4"])
    verify([str(tmp_path / "slabs"), "--checkpoint", str(tmp_path / "checkpoint")])


def test_a_quantized_embedding_has_to_become_numbers(checkpoints, tmp_path):
    directory = checkpoints.fresh("llama", tmp_path / "checkpoint")
    tensors = load_file(directory / MODEL)
    name = "model.embed_tokens.weight"
    codes, scales, numbers = published.float8_of(tensors[name].numpy(), (128, 32))
    save_file({**tensors, name: codes, f"{name}_scale_inv": scales}, directory / MODEL)
    keys = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**keys, "quantization_config": fp8_config((128, 32))}))
    with pytest.raises(
        UserError, match=r"embed_tokens\.weight is float8 by 32; only matrices of .*; use --dtype bfloat16"
    ):
        split([str(directory), str(tmp_path / "slabs"), "--ranks", "2"])
    split([str(directory), str(tmp_path / "slabs"), "--ranks", "2", "--dtype", "float32"])
    verify([str(tmp_path / "slabs"), "--checkpoint", str(directory)])
    save_file({**tensors, name: torch.from_numpy(numbers)}, directory / MODEL)
    verify([str(tmp_path / "slabs"), "--checkpoint", str(directory)])


@pytest.mark.parametrize("suffix", ["qweight", "qzeros", "scales"])
def test_one_number_of_the_checkpoint_that_differs_is_found(suffix, checkpoints, tmp_path):
    published.publish(checkpoints["llama"], tmp_path / "checkpoint", *CASES["awq"][1])
    split([str(tmp_path / "checkpoint"), str(tmp_path / "slabs"), "--ranks", "2"])
    tensors = load_file(tmp_path / "checkpoint" / MODEL)
    numbers = tensors[f"model.layers.2.mlp.down_proj.{suffix}"]
    numbers[1, 3] = -numbers[1, 3] if suffix == "scales" else numbers[1, 3] ^ 16
    save_file(tensors, tmp_path / "checkpoint" / MODEL)
    with pytest.raises(TpiError, match=r"tensor model\.layers\.2\.mlp\.down_proj\.weight differs between the slabs"):
        verify([str(tmp_path / "slabs"), "--checkpoint", str(tmp_path / "checkpoint")])


@pytest.mark.parametrize(("change", "match"), [
    ({"bits": 3}, r"quantization_config in .*config\.json has bits 3; the supported ones are 4, 8"),
    (None, r"has the tensor model\.layers\.0\.mlp\.down_proj\.g_idx, which is not understood for llama"),
])  # fmt: skip
def test_a_config_that_does_not_tell_how_is_refused(change, match, checkpoints, tmp_path):
    directory = tmp_path / "checkpoint"
    published.publish(checkpoints["llama"], directory, *CASES["gptq"][1])
    keys = json.loads((directory / "config.json").read_text())
    keys["quantization_config"] = change and {**keys["quantization_config"], **change}
    (directory / "config.json").write_text(json.dumps(keys))
    with pytest.raises(UserError, match=match):
        split([str(directory), str(tmp_path / "slabs"), "--ranks", "2"])


def test_a_matrix_that_is_missing_is_named(checkpoints, tmp_path):
    published.publish(checkpoints["llama"], tmp_path / "checkpoint", *CASES["gptq"][1])
    tensors = load_file(tmp_path / "checkpoint" / MODEL)
    tensors = {name: tensor for name, tensor in tensors.items() if "layers.1.mlp.up_proj" not in name}
    save_file(tensors, tmp_path / "checkpoint" / MODEL)
    with pytest.raises(UserError, match=r"lacks the tensor model\.layers\.1\.mlp\.up_proj\.weight, which its config"):
        split([str(tmp_path / "checkpoint"), str(tmp_path / "slabs"), "--ranks", "2"])
