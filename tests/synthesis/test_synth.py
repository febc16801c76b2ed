"""Random checkpoints of published shapes, and slabs that are made without one."""

import json
from contextlib import closing

import h5py
import numpy as np
import pytest
import torch
from conftest import run_module

from tpi_mpi.common.errors import UserError
from tpi_mpi.kernels.fallback import dequantized
from tpi_mpi.kernels.formats import CODES, Format
from tpi_mpi.weights.mapping import SlabFile
from tpi_mpi.weights.slabs.directory import open_slabs, slab_path
from tpi_mpi.weights.slabs.hdf5 import read_slab
from weights_tools.split import split
from weights_tools.splitting.checkpoint import Checkpoint
from weights_tools.synth import synth
from weights_tools.synthesis.shapes import SHAPES
from weights_tools.verify import verify


@pytest.fixture
def small_config(checkpoints):
    """A config.json of a few thousand parameters."""
    return str(checkpoints["llama"] / "config.json")


# Billions of parameters, by the published model cards.
BILLIONS = {
    "tinyllama-1.1b": 1.1,
    "open-llama-3b": 3.43,
    "llama-2-7b": 6.74,
    "llama-2-13b": 13.02,
    "llama-2-70b": 68.98,
    "llama-3.1-8b": 8.03,
    "llama-3.1-70b": 70.55,
    "yi-34b": 34.39,
    "mistral-7b": 7.24,
    "qwen2.5-7b": 7.62,
    "qwen3-8b": 8.19,
    "qwen3-30b-a3b": 30.53,
    "gpt-oss-20b": 20.91,
    "gpt-oss-120b": 116.83,
    "mixtral-8x7b": 46.70,
    "glm-4.5-air": 106.85,
    "phi-3-mini": 3.82,
}


@pytest.mark.parametrize("name", SHAPES)
def test_published_shapes_have_the_published_number_of_parameters(name):
    from tpi_mpi.model.blocks import sources_of
    from tpi_mpi.model.config import ModelConfig
    from tpi_mpi.model.partition import Partition

    config = ModelConfig.from_keys(SHAPES[name])
    shapes = sources_of(config, Partition.of(config, 1)).values()
    count = sum(torch.Size(shape).numel() for shape in shapes)
    assert count / 1e9 == pytest.approx(BILLIONS[name], abs=0.006)


def test_a_random_checkpoint_is_one_that_transformers_loads(small_config, tmp_path):
    from transformers import AutoModelForCausalLM

    synth([str(tmp_path / "checkpoint"), "--config", small_config, "--dtype", "float32", "--layers", "2"])
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", output_loading_info=True)
    assert not any(report.values())
    assert model.config.num_hidden_layers == 2
    assert Checkpoint(tmp_path / "checkpoint").formats["lm_head.weight"] == Format("float32")


def test_slabs_made_directly_equal_those_of_the_checkpoint(small_config, tmp_path):
    for seed in ("1", "2"):
        synth([str(tmp_path / f"checkpoint{seed}"), "--config", small_config, "--seed", seed])
    split([str(tmp_path / "checkpoint1"), str(tmp_path / "split"), "--ranks", "3"])
    synth([str(tmp_path / "direct"), "--config", small_config, "--ranks", "3", "--seed", "1"])
    verify([str(tmp_path / "direct"), "--checkpoint", str(tmp_path / "checkpoint1")])
    for rank in range(3):
        split_slab, direct = (read_slab(slab_path(tmp_path / name, rank)) for name in ("split", "direct"))
        assert split_slab.blocks == direct.blocks
        assert split_slab.source_digest == direct.source_digest
    with pytest.raises(Exception, match="differs between"):
        verify([str(tmp_path / "direct"), "--checkpoint", str(tmp_path / "checkpoint2")])


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("tied", [False, True])
def test_slabs_of_any_packed_format_are_made_without_rounding(dtype, tied, checkpoints, tmp_path):
    config = checkpoints["llama-biases-tied" if tied else "llama"] / "config.json"
    synth([str(tmp_path), "--config", str(config), "--ranks", "2", "--dtype", dtype])
    verify([str(tmp_path)])
    slabs = open_slabs(tmp_path)
    assert (slabs[0].dtype, slabs[0].kv_dtype) == (dtype, "bfloat16")
    assert slabs[0].formats["head"] == "int8 by 32"
    with closing(SlabFile(slabs[1].path)) as file:
        weights = dequantized(file.map(slabs[1].blocks["layers.1.feed_forward"]).tensors["mlp.up_proj.weight"])
    assert weights.std() == pytest.approx(0.02, rel=0.1)
    assert len(np.unique(weights)) > 10


def test_layers_beyond_the_unique_ones_are_hard_links(small_config, tmp_path):
    shape = ["--config", small_config, "--layers", "12", "--ranks", "2"]
    synth([str(tmp_path / "whole"), *shape])
    synth([str(tmp_path / "linked"), *shape, "--unique-layers", "2"])
    verify([str(tmp_path / "linked")])
    whole, linked = (read_slab(slab_path(tmp_path / name, 1)) for name in ("whole", "linked"))
    assert list(whole.blocks) == list(linked.blocks)
    assert linked.nbytes * 6 == whole.nbytes
    assert linked.blocks["layers.7.attention"].offset == linked.blocks["layers.1.attention"].offset
    with h5py.File(linked.path) as file:
        assert file["layers.7.attention"] == file["layers.1.attention"]
    finished = run_module("tpi_mpi.generate", tmp_path / "linked", "--prompt", "a", ranks=2)
    assert finished.returncode == 2  # this tiny vocabulary has no room for a tokenizer of bytes
    assert "neither tokenizer.json nor" in finished.stderr


def test_any_text_can_be_a_prompt(tmp_path):
    keys = {**SHAPES["tinyllama-1.1b"], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps({**keys, "vocab_size": 300}))
    synth([str(tmp_path / "slabs"), "--config", str(tmp_path / "config.json"), "--ranks", "1"])
    finished = run_module(
        "tpi_mpi.generate", tmp_path / "slabs", "--prompt", "日本 ☃", "--max-new-tokens", 5, check=True
    )
    assert "5 tokens" in finished.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "either --like NAME or --config FILE"),
        ("--like gpt-5", "invalid choice: 'gpt-5'"),
        ("--like llama-2-7b --layers 0", "--layers is 0"),
        ("--like llama-2-7b --unique-layers 2", "--unique-layers and --ratios are for slabs; give --ranks N too"),
        ("--like llama-2-7b --ranks 2 --unique-layers 0", "--unique-layers is 0"),
        ("--like llama-2-7b --ranks 0", "--ranks is 0"),
        ("--like llama-2-7b --dtype int4", "a checkpoint cannot be made in int4; give --ranks N for slabs, or another"),
        ("--like llama-2-7b --head-dtype int8", "a checkpoint cannot be made in int8"),
        ("--like llama-2-7b --ranks 2 --dtype mxfp4 --group 64", "--group 64 is for int8 and int4, not for --dtype"),
        ("--like llama-2-7b --expert-skew 0.3", "--expert-skew 0.3 is for models with experts, which this one has not"),
        ("--like llama-2-7b --ranks 33", "more than the model's 32 query heads"),
    ],
)
def test_mistakes_are_named(arguments, words, tmp_path):
    with pytest.raises(UserError) as refusal:
        synth([str(tmp_path / "out"), *arguments.split()])
    assert words in str(refusal.value)
    assert not (tmp_path / "out").exists()
