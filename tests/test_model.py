"""Laws of the model: dense equals sharded, and both are what transformers computes."""

import numpy as np
import pytest
import zoo
from together import Together

from tpi_mpi.partition import Partition
from weights_tools.checkpoint import Checkpoint
from weights_tools.cut import cut

SPLITS = [(1, None), (2, None), (2, (3, 1)), (3, None), (3, (1, 4, 2)), (4, None), (4, (1, 2, 3, 1))]


def slabs_of(path, target, ranks, ratios, dtype="keep"):
    checkpoint = Checkpoint(path)
    target.mkdir()
    cut(checkpoint, target, Partition.of(checkpoint.config, ranks, ratios), dtype)
    return target


@pytest.mark.parametrize("name", zoo.CASES)
def test_every_split_gives_the_tokens_of_transformers(name, checkpoints, tmp_path):
    for index, (ranks, ratios) in enumerate(SPLITS):
        slabs = slabs_of(checkpoints[name], tmp_path / str(index), ranks, ratios)
        for prompt, expected in zip(zoo.PROMPTS, zoo.referee(checkpoints[name]), strict=True):
            with Together(slabs, ranks) as together:
                token_ids, scores = together.greedy(prompt, zoo.NEW_TOKENS)
            assert token_ids == expected["token_ids"], (name, ranks, ratios)
            np.testing.assert_allclose(scores.numpy(), expected["scores"], atol=1e-3)
