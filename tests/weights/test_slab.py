"""The slab's format: one range a block, aligned, readable by others, and refused when it is not whole."""

import json
import shutil
import subprocess
import time

import h5py
import numpy as np
import pytest
import torch

from tpi_mpi.common.errors import UserError
from tpi_mpi.model.blocks import shard_blocks
from tpi_mpi.model.config import ModelConfig
from tpi_mpi.weights.slabs.directory import Manifest, slab_path
from tpi_mpi.weights.slabs.extents import PAGE
from tpi_mpi.weights.slabs.hdf5 import create, read_slab
from tpi_mpi.weights.slabs.slab import empty_slab
from tpi_mpi.weights.slabs.stored_formats import StoredFormats
from weights_tools.split import split


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


MANY_EXPERTS = {
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 48,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "vocab_size": 131,
    "num_experts": 128,
    "moe_intermediate_size": 96,
}


@pytest.fixture
def many_experts(tmp_path):
    """A slab of thousands of experts, without data."""
    config = ModelConfig.from_keys(MANY_EXPERTS)
    formats = StoredFormats.like(config, "int4")
    partition = formats.partition(config, 5)
    slab = empty_slab(tmp_path / "rank0001.h5", config, partition, 1, formats, "0" * 32)
    return create(slab, shard_blocks(config, partition, 1), formats)


def test_thousands_of_experts_do_not_make_a_slab_slow_to_open(many_experts):
    began = time.perf_counter()
    slab = read_slab(many_experts.path)
    assert time.perf_counter() - began < 3  # 0.5 s where nothing else runs
    assert [len(own) for own in slab.experts.values()] == [128] * 48
    assert list(slab.extents) == list(many_experts.extents)


def test_experts_lie_behind_their_router_each_on_pages_of_its_own(many_experts):
    end = 0
    for extent in sorted(many_experts.extents, key=lambda extent: extent.offset):
        assert extent.offset % PAGE == 0
        assert extent.offset >= end
        end = extent.stop
        if ".expert." in extent.name:
            assert extent.nbytes % PAGE == 0
            layer = extent.name.rpartition(".expert.")[0]
            assert extent.offset > many_experts.blocks[f"{layer}.router"].offset


def test_any_hdf5_reader_finds_an_expert(checkpoints, tmp_path):
    from safetensors import safe_open

    checkpoint = checkpoints["glm4-moe"]
    split([str(checkpoint), str(tmp_path), "--ranks", "2"])
    slab = read_slab(slab_path(tmp_path, 1))
    with h5py.File(slab.path, "r") as file, safe_open(checkpoint / "model.safetensors", "pt") as weights:
        group, number = file["layers.2.experts"], 5
        records = next(item for name, item in group.items() if number in item.attrs.get("experts", []))
        record = records[list(records.attrs["experts"]).index(number)]
        about = json.loads(records.attrs["tensors"])["mlp.down_proj.weight"]
        tiles = record["mlp.down_proj.weight"]  # (T, I, 16)
        found = tiles.transpose(0, 2, 1).reshape(len(tiles) * 16, -1)[: about["rows"], : about["columns"]]
        start, stop = slab.partition.expert(2, number)[1]
        original = weights.get_tensor(f"model.layers.2.mlp.experts.{number}.down_proj.weight").numpy()
        assert np.array_equal(found, original[:, start:stop])
        assert int(group["checksums"][number]) == int(slab.experts[2].extent(number).checksum, 16)


@pytest.mark.parametrize("spoil", [
    lambda group: group["32_columns"].attrs.__setitem__("experts", np.arange(2, dtype="<i4")),
    lambda group: group["32_columns"].attrs.__setitem__("tensors", np.bytes_(b"{}")),
    lambda group: group.__delitem__("64_columns"),
    lambda group: group.__delitem__("checksums"),
])  # fmt: skip
def test_experts_that_are_not_as_they_should_be_are_refused(spoil, checkpoints, tmp_path):
    split([str(checkpoints["mixtral"]), str(tmp_path), "--ranks", "2"])
    with h5py.File(slab_path(tmp_path, 0), "r+") as file:
        spoil(file["layers.1.experts"])
    with pytest.raises(UserError, match=r"rank0000\.h5 is truncated or damaged"):
        read_slab(slab_path(tmp_path, 0))


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


def damage(group, attribute):
    """Says something of a layer's experts that is not so."""
    array = next(group[name] for name in group if name != "checksums")
    numbers = array.attrs["experts"]
    match attribute:
        case "experts":
            array.attrs["experts"] = [99, *numbers[1:]]
        case "negative":
            array.attrs["experts"] = [-1, *numbers[1:]]
        case "twice":
            array.attrs["experts"] = [numbers[1], *numbers[1:]]
        case "tensors":
            array.attrs["tensors"] = array.attrs["tensors"].replace(b'"lead": 0', b'"lead": 4')
        case "checksums":
            del group["checksums"]
            group["checksums"] = np.zeros(3, np.uint64)


@pytest.mark.parametrize("attribute", ["experts", "negative", "twice", "tensors", "checksums"])
def test_damaged_experts_are_named(attribute, demo_moe, tmp_path):
    split([str(demo_moe), str(tmp_path / "slabs"), "--ranks", "2"])
    path = slab_path(tmp_path / "slabs", 1)
    with h5py.File(path, "r+") as file:
        damage(file["layers.1.experts"], attribute)
    with pytest.raises(UserError, match="is truncated or damaged"):
        read_slab(path)
