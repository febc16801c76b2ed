"""Laws of the formats: the weights are the same for any number of ranks, and those that were asked for."""

from contextlib import closing

import h5py
import numpy as np
import packed
import pytest
import torch
from together import Together

from tpi_mpi.common.errors import UserError
from tpi_mpi.kernels.fallback import dequantized
from tpi_mpi.kernels.formats import TILE, Format
from tpi_mpi.kernels.packing import Rows, dequantize
from tpi_mpi.model.partition import Partition
from tpi_mpi.weights.mapping import SlabFile
from tpi_mpi.weights.slabs.directory import open_slabs, slab_path
from tpi_mpi.weights.slabs.hdf5 import read_slab
from tpi_mpi.weights.slabs.slab import Slab, formats_of
from tpi_mpi.weights.slabs.stored_formats import StoredFormats
from weights_tools.split import split
from weights_tools.splitting.checkpoint import Checkpoint
from weights_tools.splitting.conversion import convert, rows_of
from weights_tools.splitting.cut import cut
from weights_tools.verification.rejoin import compare
from weights_tools.verify import verify

# Heads of 24, and 112 columns: every rank but the first begins inside a group.
CASE = "llama-head-dim"
RATIOS = {1: None, 2: (3, 1), 3: None, 4: (1, 2, 3, 1)}


def cut_into(source, target, ranks: int, formats: StoredFormats | None = None) -> list[Slab]:
    target.mkdir()
    cut(source, target, Partition.of(source.config, ranks, RATIOS[ranks]), formats)
    return open_slabs(target)


@pytest.mark.parametrize("name", packed.FORMATS)
def test_every_format_keeps_its_weights_on_any_number_of_ranks(name, checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(Slab, "kv_dtype", "float32")  # so that nothing but the weights is rounded
    source = packed.PackedCheckpoint(checkpoints[CASE], packed.FORMATS[name])
    for ranks in RATIOS:
        slabs = cut_into(source, tmp_path / str(ranks), ranks)
        assert compare(slabs, source) == {}
    for expected in source.referee():
        with Together(tmp_path / str(ranks), ranks) as together:
            token_ids, logprobs = together.greedy(expected["prompt"], len(expected["token_ids"]))
        assert token_ids == expected["token_ids"], (name, ranks)
        np.testing.assert_allclose(logprobs, expected["logprobs"], atol=1e-3)
    digests = {open_slabs(tmp_path / str(ranks))[0].source_digest for ranks in RATIOS}
    assert len(digests) == 1


@pytest.mark.parametrize("case", ["phi3", "llama-biases-tied", "llama-mqa", "gpt-oss", "glm4-moe"])
def test_fused_tied_and_odd_matrices_and_experts_are_packed_too(case, checkpoints, tmp_path):
    source = packed.PackedCheckpoint(checkpoints[case], packed.FORMATS["int4-64-zeros"])
    assert compare(cut_into(source, tmp_path / "slabs", 3), source) == {}


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("options", ["--dtype int8", "--dtype int4 --group 64", "--dtype int4 --zero-points"])
def test_weights_are_rounded_before_they_are_cut(options, ranks, checkpoints, tmp_path, capsys):
    split([str(checkpoints[CASE]), str(tmp_path), "--ranks", str(ranks), "--head-dtype", "keep", *options.split()])
    slabs = open_slabs(tmp_path)
    format = formats_of(slabs[0]).sources["model.layers.0.mlp.up_proj.weight"]
    assert str(format) in ("int8 by 32", "int4 by 64", "int4 by 32 with zero points")
    assert compare(slabs, packed.PackedCheckpoint(checkpoints[CASE], format, head=Format("float32"))) == {}

    verify([str(tmp_path), "--checkpoint", str(checkpoints[CASE])])
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 1 + 3 * 7
    assert "equal the checkpoint but for rounding: model.layers." in shown.err


@pytest.mark.parametrize(
    ("options", "layers", "head", "rest"),
    [
        ("", "bfloat16", "bfloat16", "bfloat16"),
        ("--dtype float16", "float16", "float16", "float16"),
        ("--dtype float32 --head-dtype int8", "float32", "int8 by 32", "float32"),
        ("--dtype int8 --group 128", "int8 by 128", "int8 by 128", "bfloat16"),
        ("--dtype int4", "int4 by 32", "int8 by 32", "bfloat16"),
        ("--dtype int4 --zero-points --head-dtype keep", "int4 by 32 with zero points", "bfloat16", "bfloat16"),
        ("--head-dtype int4 --group 64", "bfloat16", "int4 by 64", "bfloat16"),
    ],
)
def test_what_is_asked_for_is_stored_and_told(options, layers, head, rest, demo, tmp_path):
    split([str(demo), str(tmp_path), "--ranks", "2", *options.split()])
    for slab in open_slabs(tmp_path):
        assert slab.formats == {"layers": layers, "head": head, "embedding": rest, "vectors": rest}
        assert slab.dtype == layers.split()[0]
        assert slab.kv_dtype == (slab.dtype if "int" not in slab.dtype else "bfloat16")


def test_slabs_of_two_formats_do_not_belong_together(demo, tmp_path):
    for group in ("32", "64"):
        split([str(demo), str(tmp_path / group), "--ranks", "2", "--dtype", "int4", "--group", group])
    slab_path(tmp_path / "32", 1).write_bytes(slab_path(tmp_path / "64", 1).read_bytes())
    with pytest.raises(UserError, match="is from a different split than"):
        open_slabs(tmp_path / "32")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_packed_checkpoint_becomes_any_float(dtype, checkpoints, tmp_path):
    source = packed.PackedCheckpoint(checkpoints[CASE], packed.FORMATS["int4-64-zeros"])
    slabs = cut_into(source, tmp_path / "slabs", 2, StoredFormats.asked(source.formats, dtype))
    assert compare(slabs, source) == {}
    up = "model.layers.1.mlp.up_proj.weight"
    with closing(SlabFile(slabs[0].path)) as file:
        stored = file.map(slabs[0].blocks["layers.1.feed_forward"]).tensors["mlp.up_proj.weight"]
    exact = source.weights()[up][: stored.shape[0]].to(getattr(torch, dtype)).float()
    assert np.array_equal(dequantized(stored), exact.numpy())


def numbers(*values: float) -> Rows:
    return rows_of(torch.tensor([values], dtype=torch.float32))


def test_floats_are_rounded_to_the_nearest_and_to_even_between_two():
    exact = [1 + 1 / 256, 1 + 3 / 256, -1 - 1 / 256 - 1e-6, 3e-42, 65504.0]
    rounded = convert(numbers(*exact), Format("float32"), Format("bfloat16"), "w")
    back = dequantize(rounded, Format("bfloat16"))[0]
    assert back.tolist() == [1, 1 + 4 / 256, -1 - 2 / 256, pytest.approx(3e-42, rel=0.01), 65536]
    halves = convert(numbers(1 + 1 / 2048, 1 + 3 / 2048), Format("float32"), Format("float16"), "w")
    assert halves.values.tolist() == [[1, 1 + 4 / 2048]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_quantized(bad):
    with pytest.raises(UserError, match="tensor w has a weight that is not finite, which int4 cannot hold"):
        convert(numbers(1, bad, 2), Format("float32"), Format.of("int4"), "w")


def test_an_embedding_that_is_packed_is_refused(checkpoints, tmp_path):
    source = packed.PackedCheckpoint(checkpoints[CASE], packed.FORMATS["int8-32"])
    source.formats["model.embed_tokens.weight"] = Format.of("int8")
    with pytest.raises(UserError, match=r"model\.embed_tokens\.weight is int8 by 32; only matrices"):
        cut_into(source, tmp_path / "slabs", 2)


def test_any_hdf5_reader_finds_the_weights_of_int4(demo, tmp_path):
    split([str(demo), str(tmp_path), "--ranks", "2", "--dtype", "int4"])
    name = "layers.2.feed_forward/mlp.down_proj.weight"
    with h5py.File(slab_path(tmp_path, 1), "r") as file:
        codes, scales, about = file[name][:], file[f"{name}.scales"][:], dict(file[name].attrs)
    pairs = codes.transpose(0, 2, 1, 3).reshape(len(codes) * TILE, -1, 16)  # (rows, inputs / 32, 16 bytes)
    numbers = np.concatenate([pairs & 15, pairs >> 4], axis=2).reshape(len(pairs), -1).astype(np.float32) - 8
    by_row = scales.transpose(0, 2, 1).reshape(len(pairs), -1).astype(np.float32)
    weights = numbers * np.repeat(by_row, about["group"], axis=1)
    weights = weights[: about["rows"], about["lead"] : about["lead"] + about["columns"]]

    slab = read_slab(slab_path(tmp_path, 1))
    start, stop = slab.partition.columns[1]
    piece = next(Checkpoint(demo).pieces("model.layers.2.mlp.down_proj.weight", 0, 192))
    whole = convert(piece, Format("bfloat16"), Format.of("int4"), "w")
    assert np.array_equal(weights, dequantize(whole, Format.of("int4"))[:, start:stop])


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("group", 48), ("lead", 1), ("rows", 10**6), ("zero_points", 1), ("scales", np.bytes_(b"e8m0"))],
)
def test_a_matrix_that_is_not_as_its_attributes_say_is_named(attribute, value, demo, tmp_path):
    split([str(demo), str(tmp_path), "--ranks", "1", "--dtype", "int4"])
    with h5py.File(slab_path(tmp_path, 0), "r+") as file:
        file["layers.1.attention/self_attn.q_proj.weight"].attrs[attribute] = value
    with pytest.raises(UserError, match=r"damaged \(.*self_attn\.q_proj\.weight"):
        read_slab(slab_path(tmp_path, 0))


def test_formats_survive_being_sent(demo, tmp_path):
    split([str(demo), str(tmp_path), "--ranks", "1", "--dtype", "int4", "--zero-points"])
    formats = formats_of(read_slab(slab_path(tmp_path, 0)))
    assert StoredFormats.from_json(formats.to_json()) == formats
