"""Laws of the model: dense equals sharded, and both are what transformers computes."""

import numpy as np
import pytest
import torch
import zoo
from together import Together

from tpi_mpi.kernels.kv_cache import KVCache
from tpi_mpi.model.partition import Partition
from weights_tools.splitting.checkpoint import Checkpoint
from weights_tools.splitting.cut import cut

# The slow decoder takes its time; tests/mpi has every number of ranks.
SPLITS = [(1, None), (2, (3, 1)), (4, (1, 2, 3, 1))]


def slabs_of(path, target, ranks, ratios):
    checkpoint = Checkpoint(path)
    target.mkdir()
    cut(checkpoint, target, Partition.of(checkpoint.config, ranks, ratios))
    return target


@pytest.mark.parametrize("name", zoo.CASES)
def test_every_split_gives_the_tokens_of_transformers(name, checkpoints, tmp_path):
    for index, (ranks, ratios) in enumerate(SPLITS):
        slabs = slabs_of(checkpoints[name], tmp_path / str(index), ranks, ratios)
        for expected in zoo.referee(checkpoints[name]):
            with Together(slabs, ranks) as together:
                token_ids, logprobs = together.greedy(expected["prompt"], zoo.NEW_TOKENS)
            assert token_ids == expected["token_ids"], (name, ranks, ratios)
            np.testing.assert_allclose(logprobs, expected["logprobs"], atol=1e-3)


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama", "llama-biases-tied", "mistral-sliding", "qwen3", "phi3-longrope"])
def test_half_precision_is_no_less_exact_than_transformers(name, dtype, ranks, tmp_path):
    """Both against transformers in float32 on the same rounded weights, along that run's own tokens."""
    zoo.build(name, tmp_path / "checkpoint", dtype)
    exact, theirs = (load(tmp_path / "checkpoint", kind) for kind in ("float32", dtype))
    slabs = slabs_of(tmp_path / "checkpoint", tmp_path / "slabs", ranks, None)
    errors = []
    for prompt in zoo.PROMPTS:
        truth = zoo.continuation(exact, prompt)
        expected = torch.tensor(truth["logprobs"])
        ids = prompt + truth["token_ids"][:-1]
        with Together(slabs, ranks) as together, torch.no_grad():
            first = [together.forward(prompt, 0)]
            own = np.stack(first + [together.forward([ids[at]], at) for at in range(len(prompt), len(ids))])
            other = theirs(torch.tensor([ids])).logits[0, len(prompt) - 1 :].float()
        both = torch.from_numpy(own), other
        errors.append([(logits.log_softmax(-1) - expected).square().mean() for logits in both])
    own, other = torch.tensor(errors).mean(0).sqrt().tolist()
    assert own <= other


def load(checkpoint, dtype):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype)).eval()


@pytest.mark.parametrize("ranks", [1, 3, 4, 8])
def test_the_cache_holds_only_the_ranks_own_heads(ranks, checkpoints, tmp_path):
    slabs = slabs_of(checkpoints["llama"], tmp_path / "slabs", ranks, None)
    with Together(slabs, ranks, capacity=10) as together:
        for rank, cache in enumerate(together.caches):
            start, stop = together.slabs[rank].partition.kv_heads(rank)
            assert cache.read(0, [0], 0, 10)[0].shape == (stop - start, 10, 8)
            assert cache.page_bytes == KVCache.size_of_page(3, stop - start, 8, "float32")
            assert cache.page_bytes == 3 * (stop - start) * (32 * 32 + 16 * 32) * 4  # with the padding of tiles
        assert sum(model.shapes.heads for model in together.models) == 8
