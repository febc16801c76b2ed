"""Law: ranks get equal shares of the bytes, whatever the formats of the layers and of the head."""

import pytest

from tpi_mpi.model.config import ModelConfig
from tpi_mpi.weights.slabs.slab import planned_slab
from tpi_mpi.weights.slabs.stored_formats import StoredFormats
from weights_tools.synthesis.shapes import SHAPES


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "int4"])
@pytest.mark.parametrize(("name", "size"), [("tinyllama-1.1b", 2), ("llama-2-70b", 8), ("qwen2.5-7b", 4)])
def test_no_rank_has_more_bytes_than_another(dtype, name, size):
    config = ModelConfig.from_keys(SHAPES[name])
    formats = StoredFormats.like(config, dtype)
    partition = formats.partition(config, size)
    slabs = [planned_slab(config, partition, rank, formats) for rank in range(size)]
    sweeps = [sum(extent.nbytes for extent in slab.sweep.values()) for slab in slabs]
    assert max(sweeps) < 1.04 * min(sweeps)


@pytest.mark.parametrize("dtype", ["bfloat16", "int4"])
def test_no_slice_of_the_head_is_larger_than_the_largest_block_of_a_layer(dtype):
    config = ModelConfig.from_keys(SHAPES["qwen2.5-7b"])
    formats = StoredFormats.like(config, dtype)
    partition = formats.partition(config, 4)
    slabs = [planned_slab(config, partition, rank, formats) for rank in range(4)]
    sizes = [(name, extent.nbytes) for slab in slabs for name, extent in slab.sweep.items()]
    layers = max(nbytes for name, nbytes in sizes if name.startswith("layers."))
    assert max(nbytes for name, nbytes in sizes if name.startswith("head.")) < 1.05 * layers
