"""Laws of how a prompt is divided into chunks."""

import pytest

from tpi_mpi.engine.sweep.chunking import Chunking, most_rows


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("most", [3, 16, 64, 256])
@pytest.mark.parametrize("tokens", [1, 2, 15, 63, 64, 65, 255, 256, 257, 1000])
def test_chunks_are_the_whole_prompt_in_pieces_that_fit(tokens, most, overlap):
    sizes = Chunking(most, overlap).sizes(tokens)
    assert sum(sizes) == tokens
    assert all(1 <= size <= most for size in sizes)
    assert len(set(sizes[:-1])) <= 1  # so that few requests have to be built


def test_a_prompt_worth_it_has_two_chunks_to_overlap():
    assert Chunking(256, overlap=True).sizes(256) == [128, 128]
    assert Chunking(256, overlap=False).sizes(256) == [256]
    assert Chunking(256, overlap=True).sizes(20) == [20]


def test_hidden_states_of_a_chunk_stay_small():
    assert all(most_rows(width) * width * 4 <= 4 * 2**20 for width in (512, 4096, 8192, 16384))
    assert most_rows(2**20) == 16
