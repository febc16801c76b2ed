"""Laws of checkpoints with experts: however a family lays them out, every number arrives, and no other."""

import json
import re

import numpy as np
import published
import pytest
import torch
from published import CONFIG, MODEL, Quantized, fp8_config, gptq_config
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.kernels.packing import Rows, dequantize
from tpi_mpi.weights.slabs.directory import open_slabs, slab_path
from tpi_mpi.weights.slabs.slab import formats_of
from weights_tools.split import split
from weights_tools.splitting import cut as cutting
from weights_tools.splitting.checkpoint import Checkpoint
from weights_tools.tensors import slices
from weights_tools.verify import verify

CASES = ["qwen3-moe", "qwen3-moe-mixed", "mixtral", "gpt-oss", "glm4-moe", "glm4-moe-qk-norm"]
SPLITS = ["--ranks 1", "--ranks 2 --ratios 3,1", "--ranks 3", "--ranks 4 --ratios 1,2,3,1"]
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")


def run(checkpoint, slabs, *options: str):
    """Splits and verifies; returns rank 0's slab."""
    split([str(checkpoint), str(slabs), *options])
    verify([str(slabs), "--checkpoint", str(checkpoint)])
    return open_slabs(slabs)[0]


def change(directory, edit, **keys) -> None:
    """Edits the tensors, and sets keys of config.json."""
    tensors = load_file(directory / MODEL)
    edit(tensors)
    save_file(tensors, directory / MODEL)
    config = json.loads((directory / CONFIG).read_text())
    (directory / CONFIG).write_text(json.dumps({**config, **keys}))


def numbers(checkpoint: Checkpoint, name: str) -> np.ndarray:
    rows = Rows.joined(list(checkpoint.pieces(name, 0, checkpoint.shapes[name][0])))
    return dequantize(rows, checkpoint.formats[name])


def expert_weights(state: dict, layer: int, expert: int, interleaved: bool) -> list[np.ndarray]:
    """An expert's gate, up and down as transformers has loaded them."""
    fused, down = (state[f"model.layers.{layer}.mlp.experts.{name}"][expert] for name in ("gate_up_proj", "down_proj"))
    if interleaved:
        return [fused[:, 0::2].T.numpy(), fused[:, 1::2].T.numpy(), down.T.numpy()]
    return [*(half.numpy() for half in fused.chunk(2)), down.numpy()]


@pytest.mark.parametrize("name", CASES)
def test_every_expert_is_the_one_that_transformers_loads(name, checkpoints):
    from transformers import AutoModelForCausalLM

    state = AutoModelForCausalLM.from_pretrained(checkpoints[name], dtype=torch.float32).state_dict()
    checkpoint = Checkpoint(checkpoints[name])
    for layer in (layer for layer in range(3) if checkpoint.config.has_experts(layer)):
        for expert in range(checkpoint.config.experts.count):
            expected = expert_weights(state, layer, expert, interleaved=name == "gpt-oss")
            for projection, weight in zip(PROJECTIONS, expected, strict=True):
                found = numbers(checkpoint, f"model.layers.{layer}.mlp.experts.{expert}.{projection}.weight")
                assert np.array_equal(found, weight), (layer, expert, projection)


def test_the_biases_of_fused_experts_take_turns_too(checkpoints):
    checkpoint, tensors = Checkpoint(checkpoints["gpt-oss"]), load_file(checkpoints["gpt-oss"] / MODEL)
    prefix = "model.layers.1.mlp"
    fused, down = (tensors[f"{prefix}.experts.{name}_bias"].numpy() for name in ("gate_up_proj", "down_proj"))
    for expert in range(6):
        expected = (fused[expert, 0::2], fused[expert, 1::2], down[expert])
        for projection, bias in zip(PROJECTIONS, expected, strict=True):
            assert np.array_equal(numbers(checkpoint, f"{prefix}.experts.{expert}.{projection}.bias"), bias)
    assert np.array_equal(numbers(checkpoint, f"{prefix}.gate.bias"), tensors[f"{prefix}.router.bias"].numpy())


@pytest.mark.parametrize("arguments", SPLITS)
@pytest.mark.parametrize("name", CASES)
def test_rejoined_slabs_equal_the_checkpoint_bit_for_bit(name, arguments, checkpoints, tmp_path, capsys):
    run(checkpoints[name], tmp_path / "slabs", *arguments.split())
    assert "equal the checkpoint\n" in capsys.readouterr().err


def test_an_interrupted_split_resumes_between_experts(checkpoints, tmp_path, monkeypatch, capsys):
    done, redone, cut_block = [], [], cutting._Cutting.cut_block

    def stop_early(self, block, pieces, bar):
        if len(done) == 14:
            raise KeyboardInterrupt
        done.append(block.name)
        cut_block(self, block, pieces, bar)

    monkeypatch.setattr(cutting._Cutting, "cut_block", stop_early)
    with pytest.raises(KeyboardInterrupt):
        split([str(checkpoints["gpt-oss"]), str(tmp_path / "slabs"), "--ranks", "3"])
    assert done[-1] == "layers.1.expert.3"
    monkeypatch.setattr(cutting._Cutting, "cut_block", lambda *a: (redone.append(a[1].name), cut_block(*a)))
    run(checkpoints["gpt-oss"], tmp_path / "slabs", "--ranks", "3")
    assert "an interrupted split is resumed: 14 of " in capsys.readouterr().err
    assert not set(done) & set(redone)
    split([str(checkpoints["gpt-oss"]), str(tmp_path / "whole"), "--ranks", "3"])
    for rank in range(3):
        assert slab_path(tmp_path / "slabs", rank).read_bytes() == slab_path(tmp_path / "whole", rank).read_bytes()


@pytest.mark.parametrize("name", CASES)
def test_rounded_experts_leave_the_router_as_it_was(name, checkpoints, tmp_path, capsys):
    slab = run(checkpoints[name], tmp_path / "slabs", "--ranks", "3", "--dtype", "int4")
    assert (slab.formats["experts"], slab.formats["vectors"]) == ("int4 by 32", "float32")
    assert str(formats_of(slab).sources["model.layers.2.mlp.gate.weight"]) == "float32"
    assert not re.search(r"mlp\.gate\.weight|shared_experts\.\w+\.bias", capsys.readouterr().out)


def test_both_names_of_a_mixtrals_tensors_are_one_model(checkpoints, tmp_path):
    newer = checkpoints.fresh("mixtral", tmp_path / "newer")

    def rename(tensors: dict) -> None:
        for name in [name for name in tensors if "block_sparse_moe" in name]:
            new = name.replace("block_sparse_moe", "mlp")
            for old, projection in (("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")):
                new = new.replace(f".{old}.", f".{projection}.")
            tensors[new] = tensors.pop(name)

    change(newer, rename)
    assert "model.layers.0.mlp.experts.7.up_proj.weight" in load_file(newer / MODEL)
    for name, path in (("old", checkpoints["mixtral"]), ("new", newer)):
        split([str(path), str(tmp_path / name), "--ranks", "2"])
    for rank in range(2):
        assert slab_path(tmp_path / "old", rank).read_bytes() == slab_path(tmp_path / "new", rank).read_bytes()


@pytest.fixture(scope="module")
def mxfp4(checkpoints, tmp_path_factory):
    """A gpt_oss checkpoint as published, and what its experts stand for."""
    directory = tmp_path_factory.mktemp("mxfp4") / "checkpoint"
    return directory, published.publish_mxfp4(checkpoints["gpt-oss"], directory)


def test_what_mxfp4_stands_for_is_what_transformers_says(mxfp4):
    directory, weights = mxfp4
    tensors = load_file(directory / MODEL)
    for name, weight in weights.items():
        blocks, scales = tensors[f"{name}_blocks"], tensors[f"{name}_scales"]
        assert torch.equal(convert_moe_packed_tensors(blocks, scales, dtype=torch.float32), weight)


@pytest.mark.parametrize("arguments", SPLITS)
def test_mxfp4_is_kept_exactly(arguments, mxfp4, tmp_path, capsys):
    directory, weights = mxfp4
    slab = run(directory, tmp_path / "slabs", *arguments.split())
    assert "equal the checkpoint\n" in capsys.readouterr().err
    assert slab.formats["experts"] == "mxfp4 by 32"
    assert (slab.formats["layers"], slab.formats["head"]) == ("bfloat16", "bfloat16")
    checkpoint = Checkpoint(directory)
    for layer in range(3):
        for expert in range(6):
            expected = expert_weights(weights, layer, expert, interleaved=True)
            for projection, weight in zip(PROJECTIONS, expected, strict=True):
                name = f"model.layers.{layer}.mlp.experts.{expert}.{projection}.weight"
                assert np.array_equal(numbers(checkpoint, name), weight)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_mxfp4_in_floats_is_the_fused_checkpoint_in_floats(dtype, mxfp4, tmp_path):
    directory, weights = mxfp4
    tensors = load_file(directory / MODEL)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(("_blocks", "_scales"))}
    plain = tmp_path / "checkpoint"
    plain.mkdir()
    save_file({**tensors, **{name: weight.bfloat16() for name, weight in weights.items()}}, plain / MODEL)
    keys = json.loads((directory / CONFIG).read_text())
    (plain / CONFIG).write_text(json.dumps({key: keys[key] for key in keys if key != "quantization_config"}))
    pairs = (("a", directory), ("b", plain))
    slabs = [run(path, tmp_path / name, "--ranks", "3", "--dtype", dtype) for name, path in pairs]
    checksums = [{extent.name: extent.checksum for extent in slab.extents} for slab in slabs]
    assert checksums[0] == checksums[1]


@pytest.mark.parametrize("options", ["--dtype int4", "--dtype int8 --group 64", "--dtype float16"])
def test_mxfp4_becomes_any_other_format(options, mxfp4, tmp_path):
    slab = run(mxfp4[0], tmp_path / "slabs", "--ranks", "2", *options.split())
    assert slab.formats["experts"].split()[0] == options.split()[1]


def gptq(weight: np.ndarray):
    matrix = Quantized.of(weight, symmetric=True)
    return published.gptq(matrix), matrix.weight()


def fp8(weight: np.ndarray):
    codes, scales, meant = published.float8_of(weight, (32, 64))
    return {"weight": codes, "weight_scale_inv": scales}, meant


QUANTIZED = [(gptq_config(), gptq, "int4 by 32"), (fp8_config((32, 64)), fp8, "float8 by 64")]


@pytest.mark.parametrize("name", ["qwen3-moe", "glm4-moe"])
@pytest.mark.parametrize(("config", "pack", "format"), QUANTIZED, ids=["gptq", "fp8"])
def test_quantized_experts_are_kept(config, pack, format, name, checkpoints, tmp_path, capsys):
    weights = published.publish(checkpoints[name], tmp_path / "checkpoint", config, pack)
    slab = run(tmp_path / "checkpoint", tmp_path / "slabs", "--ranks", "3")
    assert "equal the checkpoint\n" in capsys.readouterr().err
    assert slab.formats["experts"] == format
    assert str(formats_of(slab).sources["model.layers.1.mlp.gate.weight"]) == "float32"
    expert = "model.layers.2.mlp.experts.5.down_proj.weight"
    assert np.array_equal(numbers(Checkpoint(tmp_path / "checkpoint"), expert), weights[expert].numpy())


def further_layer(tensors: dict) -> None:
    last, after = "model.layers.2.", "model.layers.3."
    tensors |= {name.replace(last, after): tensor.clone() for name, tensor in tensors.items() if name.startswith(last)}
    tensors["model.layers.3.eh_proj.weight"] = torch.zeros(64, 128)


def test_a_layer_that_guesses_further_tokens_is_left_out_and_said(checkpoints, tmp_path, capsys):
    longer = checkpoints.fresh("glm4-moe", tmp_path / "longer")
    change(longer, further_layer, num_nextn_predict_layers=1)
    split([str(longer), str(tmp_path / "a"), "--ranks", "2"])
    said = [line for line in capsys.readouterr().err.splitlines() if "model.layers.3." in line]
    assert len(said) == 1
    assert re.search(r"tensors of model\.layers\.3\.\* are left out: that layer guesses further tokens", said[0])
    split([str(checkpoints["glm4-moe"]), str(tmp_path / "b"), "--ranks", "2"])
    assert "left out" not in capsys.readouterr().err
    assert open_slabs(tmp_path / "a")[0].source_digest == open_slabs(tmp_path / "b")[0].source_digest


def put(name: str, tensor: torch.Tensor):
    return lambda tensors: tensors.update({name: tensor})


def duplicate(tensors: dict) -> None:
    tensors["model.layers.1.mlp.experts.2.up_proj.weight"] = torch.zeros(96, 64)


def fewer_experts(tensors: dict) -> None:
    name = "model.layers.1.mlp.experts.down_proj_bias"
    tensors[name] = tensors[name][:5].clone()


def narrower(tensors: dict) -> None:
    name = "model.layers.1.mlp.experts.gate_up_proj"
    tensors[name] = tensors[name][:, :, :190].clone()


FUSED = "model.layers.0.mlp.experts.gate_up_proj"
BLOCKS = torch.zeros(6, 192, 2, 16, dtype=torch.uint8)
REFUSED = [
    ("qwen3-moe", put(FUSED, torch.zeros(8, 192, 64)), {}, f"has the tensor {FUSED}, which is not understood for qwen"),
    ("qwen3-moe", further_layer, {}, "has the tensor model.layers.3."),
    ("glm4-moe", further_layer, {"num_nextn_predict_layers": 0}, "has the tensor model.layers.3."),
    ("mixtral", duplicate, {}, "has model.layers.1.mlp.experts.2.up_proj.weight twice, as model.layers.1."),
    ("gpt-oss", fewer_experts, {}, "down_proj_bias has shape (5, 64), but config.json promises 6 experts and 2 axes"),
    ("gpt-oss", narrower, {}, "experts.0.gate_proj.weight has shape (95, 64), but config.json promises (96, 64)"),
    ("gpt-oss", put(f"{FUSED}_blocks", BLOCKS), {}, f"has the tensor {FUSED}_blocks, which is not understood"),
    (
        "gpt-oss",
        put(f"{FUSED}_blocks", BLOCKS),
        {"quantization_config": published.MXFP4_CONFIG},
        "lacks the tensor model.layers.0.mlp.experts.0.gate_proj.scales, without which",
    ),
    (
        "gpt-oss",
        lambda tensors: tensors.pop("model.layers.2.mlp.experts.down_proj"),
        {},
        "lacks the tensor model.layers.2.mlp.experts.0.down_proj.weight and 5 more",
    ),
]


@pytest.mark.parametrize(("name", "edit", "keys", "words"), REFUSED)
def test_what_is_not_understood_is_refused_by_name(name, edit, keys, words, checkpoints, tmp_path):
    directory = checkpoints.fresh(name, tmp_path / "checkpoint")
    change(directory, edit, **keys)
    with pytest.raises(UserError) as refusal:
        split([str(directory), str(tmp_path / "slabs"), "--ranks", "2"])
    assert words in str(refusal.value)


@pytest.mark.parametrize(("suffix", "error", "words"), [
    ("_scales", TpiError, "gate_up_proj_scales has a scale that is not a number; download it again"),
    ("_blocks", UserError, r"gate_up_proj_blocks has shape \(96, 2, 8\), but config.json promises \(96, 2, 16\)"),
])  # fmt: skip
def test_damaged_mxfp4_is_refused(suffix, error, words, mxfp4, tmp_path):
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    tensors = load_file(mxfp4[0] / MODEL)
    if suffix == "_scales":
        tensors[f"{FUSED}{suffix}"][3, 5, 1] = 255
    else:
        tensors[f"{FUSED}{suffix}"] = tensors[f"{FUSED}{suffix}"][..., :8].contiguous()
    save_file(tensors, directory / MODEL)
    (directory / CONFIG).write_bytes((mxfp4[0] / CONFIG).read_bytes())
    with pytest.raises(error, match=words):
        split([str(directory), str(tmp_path / "slabs"), "--ranks", "2"])


@pytest.mark.parametrize("edit", [1, 2, 4])
def test_one_number_of_an_expert_that_differs_is_found(edit, mxfp4, tmp_path):
    split([str(mxfp4[0]), str(tmp_path / "slabs"), "--ranks", "3"])
    directory = tmp_path / "checkpoint"
    directory.mkdir()
    tensors = load_file(mxfp4[0] / MODEL)
    tensors[f"{FUSED}_blocks"][4, 7, 1, 3] ^= edit << 4
    save_file(tensors, directory / MODEL)
    (directory / CONFIG).write_bytes((mxfp4[0] / CONFIG).read_bytes())
    with pytest.raises(TpiError, match=r"tensor model\.layers\.0\.mlp\.experts\.4\.up_proj\.weight differs between"):
        verify([str(tmp_path / "slabs"), "--checkpoint", str(directory)])


def test_one_expert_is_read_without_the_others(checkpoints, monkeypatch):
    read = []

    class Counted(slices.Stored):
        def read(self, *rows):
            numbers = super().read(*rows)
            read.append(numbers.size)
            return numbers

    checkpoint = Checkpoint(checkpoints["gpt-oss"])
    monkeypatch.setattr(slices, "Stored", Counted)
    numbers(checkpoint, "model.layers.1.mlp.experts.3.up_proj.weight")
    numbers(checkpoint, "model.layers.1.mlp.experts.3.down_proj.bias")
    assert read == [64 * 192, 64]


def test_an_expert_that_the_disk_cannot_deliver_is_named(checkpoints, tmp_path):
    directory = checkpoints.fresh("qwen3-moe", tmp_path / "checkpoint")
    checkpoint = Checkpoint(directory)
    with open(directory / MODEL, "r+b") as file:
        file.truncate(20_000)
    name = "model.layers.2.mlp.experts.7.up_proj.weight"
    with pytest.raises(TpiError, match=rf"tensor {re.escape(name)} in .*{MODEL} cannot be read: the file ends in it"):
        numbers(checkpoint, name)


@pytest.mark.parametrize("name", ["qwen3-moe", "gpt-oss"])
def test_experts_may_come_in_any_pieces(name, checkpoints, monkeypatch):
    checkpoint, expert = Checkpoint(checkpoints[name]), "model.layers.0.mlp.experts.4.gate_proj.weight"
    whole = numbers(checkpoint, expert)
    monkeypatch.setattr("weights_tools.common.pieces._WEIGHTS", 16 * 64)
    pieces = list(checkpoint.pieces(expert, 5, 90))
    assert [len(piece) for piece in pieces] == [16] * 5 + [5]
    assert np.array_equal(Rows.joined(pieces).values, whole[5:90])
