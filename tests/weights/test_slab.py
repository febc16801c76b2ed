"""The slab's format: one range a block, aligned, readable by others, and refused when it is not whole."""

import shutil
import subprocess

import h5py
import numpy as np
import pytest
import torch

from tpi_mpi.common.errors import UserError
from tpi_mpi.weights.slabs.directory import Manifest, slab_path
from tpi_mpi.weights.slabs.extents import PAGE
from tpi_mpi.weights.slabs.hdf5 import read_slab


@pytest.fixture
def path(demo_slabs, tmp_path):
    """A slab that the test may spoil."""
    return shutil.copy(slab_path(demo_slabs(2), 0), tmp_path / "rank0000.h5")


def test_blocks_are_ranges_in_the_order_of_use(demo_slabs):
    for rank in range(2):
        slab = read_slab(slab_path(demo_slabs(2), rank))
        end = 0
        for extent in slab.blocks.values():
            assert extent.offset % PAGE == 0
            assert extent.offset >= end
            end = extent.offset + extent.nbytes
            parts = [part for tensor in extent.tensors for part in tensor.ranges]
            assert sum(stop - start for start, stop in parts) > extent.nbytes - PAGE * len(parts)
    names = list(slab.blocks)
    assert names[:3] == ["layers.0.attention", "layers.0.feed_forward", "layers.1.attention"]


def test_only_rank_0_holds_embedding_and_head(demo_slabs):
    first, second = (read_slab(slab_path(demo_slabs(2), rank)) for rank in range(2))
    assert "embedding" in first.blocks
    assert "head.0" in first.blocks
    assert not [name for name in second.blocks if not name.startswith("layers.")]


def test_any_hdf5_reader_finds_the_weights(demo_slabs, demo):
    from safetensors import safe_open

    with h5py.File(slab_path(demo_slabs(2), 0), "r") as file, safe_open(demo / "model.safetensors", "pt") as weights:
        dataset = file["layers.2.feed_forward/mlp.gate_proj.weight"]
        assert bytes(dataset.attrs["dtype"]) == b"bfloat16"
        assert bytes(dataset.attrs["layout"]) == b"rows / 16, inputs / 2, 16 rows, 2 inputs"
        rows, columns = int(dataset.attrs["rows"]), int(dataset.attrs["columns"])
        found = dataset[:].transpose(0, 2, 1, 3).reshape(-1, columns)[:rows]
        original = weights.get_tensor("model.layers.2.mlp.gate_proj.weight")[:rows]
        assert np.array_equal(found, original.view(torch.uint16).numpy())


@pytest.mark.skipif(not shutil.which("h5dump"), reason="h5dump is not installed")
def test_h5dump_reads_it(demo_slabs):
    command = ["h5dump", "-H", str(slab_path(demo_slabs(2), 0))]
    assert "layers.2.feed_forward" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("keep", [0, 7, 1000, 100_000, -1])
def test_a_truncated_slab_is_named(path, keep):
    length = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(keep if keep >= 0 else length - 1)
    with pytest.raises(UserError, match=r"rank0000\.h5 is truncated"):
        read_slab(path)


def test_a_missing_slab_is_named(tmp_path):
    with pytest.raises(UserError, match=r"rank0003\.h5 does not exist"):
        read_slab(slab_path(tmp_path, 3))


def test_another_hdf5_file_is_named(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(UserError, match="an HDF5 file but not a slab"):
        read_slab(tmp_path / "other.h5")


@pytest.mark.parametrize("version", [1, 99])
def test_another_format_is_named(version, path):
    with h5py.File(path, "r+") as file:
        file.attrs["format_version"] = version
    with pytest.raises(UserError, match=f"format version {version}; this release reads 2: split again"):
        read_slab(path)


def test_a_link_out_of_the_slab_is_not_followed(path, demo_slabs):
    name = "layers.1.attention"
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = h5py.ExternalLink(str(slab_path(demo_slabs(2), 0)), name)
    with pytest.raises(UserError, match="a link that leads elsewhere"):
        read_slab(path)


def test_a_tensor_of_another_shape_is_named(path):
    name = "layers.1.attention/self_attn.q_proj.weight"
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = np.zeros((2, 2), dtype="<u2")
        file[name].attrs["dtype"] = np.bytes_(b"bfloat16")
    with pytest.raises(UserError, match="it should be"):
        read_slab(path)


def test_a_manifest_knows_for_how_many_ranks_it_is(demo_slabs):
    manifest = Manifest.load(demo_slabs(2))
    manifest.check_size(2)
    with pytest.raises(UserError, match="split for 2 ranks, but 3 were started; use mpirun -np 2"):
        manifest.check_size(3)


@pytest.mark.parametrize(
    ("content", "words"), [(None, "was not completed"), ("{", "cannot be read"), ('{"a": 1}', "cannot be read")]
)
def test_a_directory_without_a_whole_manifest_is_named(tmp_path, content, words):
    if content:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=words):
        Manifest.load(tmp_path)
    with pytest.raises(UserError, match=r"does not exist; make it with weights_tools\.split"):
        Manifest.load(tmp_path / "nowhere")
