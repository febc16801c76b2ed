"""Laws of quantized checkpoints: what is read is what the method says, to the last bit, by any rows of it."""

import numpy as np
import published
import pytest
import torch
from published import Quantized, awq_config, compressed_config, float8, fp8_config, gptq_config
from safetensors.torch import save_file

from tpi_mpi.common.errors import TpiError
from tpi_mpi.kernels.formats import WHOLE_ROW, Format
from tpi_mpi.kernels.packing import Rows, dequantize
from weights_tools.quantized.quantization import Quantization
from weights_tools.tensors.stored import stored_tensors

MODULE = "model.layers.0.mlp.up_proj"
NAME = f"{MODULE}.weight"


def read(path, config: dict, parts: dict, shape):
    """The matrix that is read from a checkpoint of nothing else."""
    save_file({f"{MODULE}.{suffix}": tensor.contiguous() for suffix, tensor in parts.items()}, path)
    quantization = Quantization.of({"quantization_config": config}, {NAME: shape}, stored_tensors(path))
    assert quantization.names == {f"{MODULE}.{suffix}" for suffix in parts}
    return quantization.matrices[NAME]


def check(matrix, weight: np.ndarray, format: Format) -> None:
    """Holds rows in the matrix's format and as numbers to what they should be, by all rows and some of them."""
    assert matrix.format == format
    for start, stop in ((0, len(weight)), (3, len(weight) - 2), (9, 10)):
        kept = Rows.joined(list(matrix.pieces(start, stop)))
        assert np.array_equal(dequantize(kept, format), weight[start:stop])
        numbers = Rows.joined(list(matrix.dequantized(start, stop))).values
        assert numbers.dtype == np.float32
        assert np.array_equal(numbers, weight[start:stop])


INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
INT8 = {**INT4, "num_bits": 8}
CHANNEL8 = {"num_bits": 8, "type": "int", "strategy": "channel"}


@pytest.fixture(params=[16, 1000], ids=lambda rows: f"{rows} rows at a time")
def rows_at_a_time(request, monkeypatch):
    monkeypatch.setattr("weights_tools.common.pieces._WEIGHTS", request.param * 256)


@pytest.mark.usefixtures("rows_at_a_time")
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("method", "bits"), [
    ("gptq", 4),
    ("gptq", 8),
    ("gptq_v2", 4),
    ("gptq_v2", 8),
    ("awq", 4),
    ("pack-quantized", 4),
    ("pack-quantized", 8),
    ("int-quantized", 8),
])  # fmt: skip
def test_integers_are_read_exactly(method, bits, symmetric, tmp_path):
    truth = Quantized.random(bits=bits, symmetric=symmetric)
    config, parts = {
        "gptq": lambda: (gptq_config(bits), published.gptq(truth)),
        "gptq_v2": lambda: (gptq_config(bits, checkpoint_format="gptq_v2"), published.gptq(truth, less_one=False)),
        "awq": lambda: (awq_config(), published.awq(truth)),
        "pack-quantized": lambda: (
            compressed_config(method, {**INT4, "num_bits": bits}),
            published.pack_quantized(truth, symmetric),
        ),
        "int-quantized": lambda: (compressed_config(method, INT8), published.int_quantized(truth)),
    }[method]()
    matrix = read(tmp_path / "a", config, parts, truth.codes.shape)
    check(matrix, truth.weight(), Format(f"int{bits}", 32, "float16", zero_points=not symmetric))
    assert matrix.why_not == ""


@pytest.mark.parametrize("method", ["gptq", "awq", "pack-quantized"])
@pytest.mark.parametrize(
    ("group", "kept"), [(64, 64), (128, 128), (256, 128), (512, 128), (1024, 128), (-1, WHOLE_ROW)]
)
def test_groups_are_kept_or_repeat_their_scale(group, kept, method, tmp_path):
    truth = Quantized.random((16, 1024), group=group)
    weights = {**INT4, "group_size": group} if group > 0 else {**CHANNEL8, "num_bits": 4}
    config, parts = {
        "gptq": (gptq_config(group=group), published.gptq(truth)),
        "awq": (awq_config(group), published.awq(truth)),
        "pack-quantized": (compressed_config(method, weights), published.pack_quantized(truth)),
    }[method]
    matrix = read(tmp_path / "a", config, parts, truth.codes.shape)
    check(matrix, truth.weight(), Format("int4", kept, "float16", zero_points=True))


@pytest.mark.parametrize("group", [64, 256])
def test_the_last_group_may_be_shorter(group, tmp_path):
    truth = Quantized.random((16, 352), group=group)
    matrix = read(tmp_path / "a", gptq_config(group=group), published.gptq(truth), (16, 352))
    check(matrix, truth.weight(), Format("int4", min(group, 128), "float16", zero_points=True))


@pytest.mark.parametrize("group", [16, 96, 192])
def test_other_groups_are_only_dequantized(group, tmp_path):
    truth = Quantized.random((16, 384), group=group)
    matrix = read(tmp_path / "a", gptq_config(group=group), published.gptq(truth), (16, 384))
    check(matrix, truth.weight(), Format("float32"))
    assert f"its groups have {group} inputs" in matrix.why_not


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("method", ["gptq", "pack-quantized"])
def test_inputs_dealt_to_groups_in_any_order_are_only_dequantized(method, bits, tmp_path):
    truth = Quantized.random(bits=bits, shuffled=True)
    config, parts = {
        "gptq": (gptq_config(bits, desc_act=True), published.gptq(truth)),
        "pack-quantized": (
            compressed_config(method, {**INT4, "num_bits": bits, "actorder": "group"}),
            published.pack_quantized(truth),
        ),
    }[method]
    matrix = read(tmp_path / "a", config, parts, truth.codes.shape)
    check(matrix, truth.weight(), Format("float32"))
    assert "follow g_idx" in matrix.why_not


def test_desc_act_in_order_is_kept(tmp_path):
    truth = Quantized.random()
    matrix = read(tmp_path / "a", gptq_config(desc_act=True), published.gptq(truth), truth.codes.shape)
    assert matrix.format == Format("int4", 32, "float16", zero_points=True)


def test_a_zero_point_of_zero_borrows_from_its_neighbour(tmp_path):
    truth = Quantized.random()
    truth.zeros[::3] = 0
    matrix = read(tmp_path / "a", gptq_config(), published.gptq(truth), truth.codes.shape)
    check(matrix, truth.weight(), Format("int4", 32, "float16", zero_points=True))


def test_sizes_that_words_do_not_divide(tmp_path):
    truth = Quantized.random((13, 100), group=-1)
    config = compressed_config("pack-quantized", {**CHANNEL8, "num_bits": 4})
    matrix = read(tmp_path / "a", config, published.pack_quantized(truth), (13, 100))
    check(matrix, truth.weight(), Format("int4", WHOLE_ROW, "float16", zero_points=True))


def test_zero_points_of_early_releases_are_one_a_byte(tmp_path):
    truth = Quantized.random()
    zeros = torch.from_numpy((truth.zeros - 8).astype(np.int8))
    parts = {**published.pack_quantized(truth), "weight_zero_point": zeros}
    matrix = read(tmp_path / "a", compressed_config("pack-quantized", INT4), parts, truth.codes.shape)
    check(matrix, truth.weight(), Format("int4", 32, "float16", zero_points=True))


@pytest.mark.parametrize(("dtype", "tiny", "scales"), [
    (torch.float16, False, "float16"),
    (torch.bfloat16, False, "float16"),
    (torch.bfloat16, True, "float32"),
    (torch.float32, False, "float16"),
    (torch.float32, True, "float32"),
])  # fmt: skip
def test_scales_become_float16_if_that_changes_none(dtype, tiny, scales, tmp_path):
    truth = Quantized.random(symmetric=True)
    truth.scales = truth.scales.astype(np.float32)
    if tiny:
        truth.scales[5, 1] = 1.1e-7
    truth.scales = torch.from_numpy(truth.scales).to(torch.bfloat16).float().numpy()
    parts = published.pack_quantized(truth, symmetric=True, scales=dtype)
    matrix = read(tmp_path / "a", compressed_config("pack-quantized", INT4), parts, truth.codes.shape)
    check(matrix, truth.weight(), Format("int4", 32, scales))


FLOAT8 = {"num_bits": 8, "type": "float"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("suffix", ["weight_scale_inv", "weight_scale"])
@pytest.mark.parametrize("block", [(128, 128), (64, 256), (16, 32)])
def test_float8_by_blocks(block, suffix, dtype, tmp_path):
    codes, scales, weight = float8((200, 320), block)
    if dtype == torch.bfloat16:
        scales = scales.bfloat16()
        each = np.kron(scales.float().numpy(), np.ones(block, np.float32))[:200, :320]
        weight = codes.float().numpy() * each
    matrix = read(tmp_path / "a", fp8_config(block), {"weight": codes, suffix: scales}, weight.shape)
    check(matrix, weight, Format("float8", min(block[1], 128), "float32"))


@pytest.mark.parametrize(("strategy", "block", "shape"), [
    ("block", (128, 128), None),
    ("group", (1, 64), None),
    ("channel", (1, 192), (40, 1)),
    ("channel", (1, 192), (40,)),
    ("tensor", (40, 192), (1,)),
    ("tensor", (40, 192), ()),
])  # fmt: skip
def test_float8_of_compressed_tensors(strategy, block, shape, tmp_path):
    codes, scales, weight = float8((40, 192), block)
    scales = scales if shape is None else scales.reshape(shape)
    weights = {**FLOAT8, "strategy": strategy, "block_structure": list(block), "group_size": block[1]}
    weights = {key: value for key, value in weights.items() if strategy == "block" or key != "block_structure"}
    if strategy != "group":
        del weights["group_size"]
    config = compressed_config("float-quantized", weights)
    matrix = read(tmp_path / "a", config, {"weight": codes, "weight_scale": scales}, (40, 192))
    group = {"block": 128, "group": 64}.get(strategy, WHOLE_ROW)
    check(matrix, weight, Format("float8", group, "float32"))


def test_float8_with_one_scale(tmp_path):
    codes, scales, weight = float8((40, 192), (40, 192))
    parts = {"weight": codes, "weight_scale": scales.reshape(()), "input_scale": torch.tensor(0.5)}
    matrix = read(tmp_path / "a", fp8_config(None, activation_scheme="static"), parts, (40, 192))
    check(matrix, weight, Format("float8", WHOLE_ROW, "float32"))


@pytest.mark.parametrize("code", published.E4M3_NAN)
def test_a_weight_that_is_not_a_number_is_an_error(code, tmp_path):
    codes, scales, _ = float8((40, 192), (128, 128))
    codes.view(torch.uint8)[17, 5] = code
    matrix = read(tmp_path / "a", fp8_config(), {"weight": codes, "weight_scale_inv": scales}, (40, 192))
    with pytest.raises(TpiError, match=rf"{NAME} has a weight that is not a number"):
        list(matrix.pieces(10, 20))
    list(matrix.pieces(20, 40))


def test_a_file_that_ends_early_is_an_error(tmp_path):
    truth = Quantized.random()
    matrix = read(tmp_path / "a", gptq_config(), published.gptq(truth), truth.codes.shape)
    with open(tmp_path / "a", "r+b") as file:
        file.truncate(1500)
    with pytest.raises(TpiError, match="cannot be read: the file ends in it; download it again"):
        list(matrix.dequantized(0, 24))
