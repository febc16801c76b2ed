"""verify finds every way in which slabs can differ from what was written; inspect shows what is there."""

import errno
import json
import shutil

import pytest
from conftest import run_module
from safetensors.torch import load_file, save_file

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.weights import pages
from tpi_mpi.weights.slabs.directory import slab_path
from tpi_mpi.weights.slabs.hdf5 import read_slab
from weights_tools.inspect import inspect
from weights_tools.split import split
from weights_tools.splitting.checkpoint import Checkpoint
from weights_tools.verification.rejoin import compare
from weights_tools.verify import verify


@pytest.fixture
def slabs(demo_slabs, tmp_path):
    """A directory of slabs that the test may spoil."""
    return shutil.copytree(demo_slabs(2), tmp_path / "slabs")


@pytest.mark.parametrize("name", ["layers.0.attention", "layers.5.feed_forward", "head.1", "embedding"])
def test_an_altered_byte_anywhere_is_found(slabs, name):
    extent = read_slab(slab_path(slabs, 0)).blocks[name]
    for at in (0, extent.nbytes // 2, extent.nbytes - 1):
        with open(slab_path(slabs, 0), "r+b") as file:
            file.seek(extent.offset + at)
            byte = file.read(1)[0]
            file.seek(extent.offset + at)
            file.write(bytes([byte ^ 128]))
            file.flush()
            with pytest.raises(TpiError, match=rf"block {name} of slab .*rank0000\.h5 has checksum"):
                verify([str(slabs)])
            file.seek(extent.offset + at)
            file.write(bytes([byte]))
    verify([str(slabs)])


@pytest.mark.parametrize("number", [0, 3, 5])
def test_an_altered_byte_of_an_expert_is_found(number, checkpoints, tmp_path):
    split([str(checkpoints["gpt-oss"]), str(tmp_path / "slabs"), "--ranks", "3"])
    path = slab_path(tmp_path / "slabs", 1)
    extent = read_slab(path).experts[2].extent(number)
    for at in (0, extent.nbytes // 2, extent.nbytes - 1):
        damaged = bytearray(path.read_bytes())
        damaged[extent.offset + at] ^= 128
        whole, _ = path.read_bytes(), path.write_bytes(damaged)
        with pytest.raises(TpiError, match=rf"block layers\.2\.expert\.{number} of slab .*rank0001\.h5 has checksum"):
            verify([str(tmp_path / "slabs")])
        path.write_bytes(whole)


def test_slabs_of_another_checkpoint_are_found(slabs, demo, tmp_path):
    other = shutil.copytree(demo, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    name = "model.layers.4.mlp.down_proj.weight"
    tensors[name][100, 300] += 1
    save_file(tensors, other / "model.safetensors")
    with pytest.raises(TpiError, match=f"tensor {name} differs between the slabs in"):
        verify([str(slabs), "--checkpoint", str(other)])


@pytest.fixture
def rounded(demo, tmp_path):
    """Slabs of int4, which differ from the checkpoint by rounding."""
    split([str(demo), str(tmp_path / "rounded"), "--ranks", "2", "--dtype", "int4"])
    return tmp_path / "rounded"


def test_the_errors_of_rounded_tensors_are_printed(rounded, demo, capsys):
    verify([str(rounded), "--checkpoint", str(demo)])
    shown = capsys.readouterr()
    head, *lines = shown.out.splitlines()
    assert head.split() == ["tensor", "largest", "error", "mean", "error"]
    assert len(lines) == 6 * 7 + 1
    errors = {line.split()[0]: tuple(map(float, line.split()[1:])) for line in lines}
    assert all(0 < mean < largest for largest, mean in errors.values())
    assert errors["lm_head.weight"][1] < min(mean for name, (_, mean) in errors.items() if name != "lm_head.weight") / 4
    worst = max(errors, key=lambda name: errors[name][1])
    assert f"equal the checkpoint but for rounding: {worst} is off by {errors[worst][1]:.6f} in the mean" in shown.err


def test_rounded_slabs_of_another_checkpoint_are_found(rounded, demo, tmp_path):
    other = shutil.copytree(demo, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    name = "model.layers.4.mlp.down_proj.weight"
    tensors[name] = tensors[name].flip(1)
    save_file(tensors, other / "model.safetensors")
    with pytest.raises(TpiError, match=f"tensor {name} differs between the slabs in"):
        verify([str(rounded), "--checkpoint", str(other)])


def test_a_checkpoint_of_another_shape_is_named(slabs, checkpoints):
    with pytest.raises(UserError, match=r"its config\.json differs"):
        verify([str(slabs), "--checkpoint", str(checkpoints["llama"])])


def test_a_slab_in_anothers_place_is_named(slabs):
    shutil.copy(slab_path(slabs, 1), slab_path(slabs, 0))
    with pytest.raises(UserError, match=r"rank0000\.h5 was split for rank 1 of 2, not for rank 0 of 2"):
        verify([str(slabs)])


def test_slabs_of_two_splits_are_named(slabs, checkpoints, tmp_path):
    run_module("weights_tools.split", checkpoints["llama"], tmp_path / "other", "--ranks", 2, check=True)
    shutil.copy(slab_path(tmp_path / "other", 1), slab_path(slabs, 1))
    with pytest.raises(UserError, match=r"rank0001\.h5 is from a different split than .*rank0000"):
        verify([str(slabs)])


def test_status_and_streams(slabs):
    finished = run_module("weights_tools.verify", slabs)
    assert (finished.returncode, finished.stdout) == (0, "")
    slab_path(slabs, 1).unlink()
    finished = run_module("weights_tools.verify", slabs)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith("tpi_mpi: slab ")


def test_inspect_shows_the_partition_as_json(demo_slabs, capsys):
    inspect([str(demo_slabs(2)), "--json"])
    shown = json.loads(capsys.readouterr().out)
    assert (shown["model"], shown["model_type"], shown["world_size"]) == ("handbook-3m", "llama", 2)
    assert [rank["heads"] for rank in shown["ranks"]] == [[0, 4], [4, 8]]
    for rank, described in enumerate(shown["ranks"]):
        assert described["bytes"] == read_slab(slab_path(demo_slabs(2), rank)).nbytes
        assert described["bytes"] == sum(described["blocks"].values())


def test_inspect_shows_a_table(demo_slabs, capsys):
    inspect([str(demo_slabs(2))])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("handbook-3m: llama, 6 layers, hidden size 192, vocabulary 1024, bfloat16, digest")
    assert len(lines) == 4
    assert "6 attention of" in lines[-1]


def test_inspect_shows_what_is_in_which_format(rounded, capsys):
    inspect([str(rounded)])
    formats = "int4 (layers int4 by 32, head int8 by 32, embedding bfloat16, vectors bfloat16)"
    assert f"vocabulary 1024, {formats}, digest" in capsys.readouterr().out
    inspect([str(rounded), "--json"])
    assert json.loads(capsys.readouterr().out)["formats"]["head"] == "int8 by 32"


@pytest.mark.parametrize(("name", "layers", "columns", "shared"), [
    ("mixtral", [0, 1, 2], None, None),
    ("qwen3-moe-mixed", [0, 2], [[0, 56], [56, 112]], None),
    ("glm4-moe-qk-norm", [1, 2], [[0, 56], [56, 112]], [[0, 96], [96, 192]]),
])  # fmt: skip
def test_inspect_shows_experts(name, layers, columns, shared, checkpoints, tmp_path, capsys):
    split([str(checkpoints[name]), str(tmp_path / "slabs"), "--ranks", "2"])
    inspect([str(tmp_path / "slabs"), "--json"])
    ranks = json.loads(capsys.readouterr().out)["ranks"]
    assert [rank["columns"] for rank in ranks] == (columns or [None, None])
    assert [rank.get("shared") for rank in ranks] == (shared or [None, None])
    for number, rank in enumerate(ranks):
        slab, experts = read_slab(slab_path(tmp_path / "slabs", number)), rank["experts"]
        assert (experts["layers"], experts["number"]) == (layers, 8)
        own = [extent for layer in layers for extent in slab.experts[layer].extents()]
        assert experts["bytes"] == [min(extent.nbytes for extent in own), max(extent.nbytes for extent in own)]
        assert experts["columns"] == [32, 64]  # of 96, in lots of 32

    inspect([str(tmp_path / "slabs")])
    _, titles, *lines = capsys.readouterr().out.splitlines()
    assert ("shared" in titles) == (shared is not None)
    for line in lines:
        assert line.endswith(f"{len(layers)} x 8 experts of 24.00 KiB to 48.00 KiB")
        assert (line.split()[3] == "-") == (columns is None)


def test_inspect_of_a_dense_model_mentions_no_experts(demo_slabs, capsys):
    inspect([str(demo_slabs(2))])
    assert "expert" not in capsys.readouterr().out
    inspect([str(demo_slabs(2)), "--json"])
    assert "expert" not in capsys.readouterr().out


def test_inspect_works_where_only_some_slabs_are(slabs, capsys):
    slab_path(slabs, 0).unlink()
    inspect([str(slabs), "--json"])
    assert [rank["rank"] for rank in json.loads(capsys.readouterr().out)["ranks"]] == [1]


def test_a_page_that_the_disk_cannot_deliver_when_slabs_are_compared_is_named(slabs, demo, monkeypatch):
    opened = [read_slab(slab_path(slabs, rank)) for rank in range(2)]
    checkpoint = Checkpoint(demo)
    monkeypatch.setattr(pages, "populate", lambda address, length: errno.EIO)
    with pytest.raises(TpiError, match=r"block layers\.0\.attention of slab .* cannot be read: Input/output error"):
        compare(opened, checkpoint)
