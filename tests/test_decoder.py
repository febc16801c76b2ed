"""Laws of how a prompt is dealt to chunks."""

import pytest

from tpi_mpi.decoder import chunk_rows, chunk_sizes


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("most", [3, 16, 64, 256])
@pytest.mark.parametrize("tokens", [1, 2, 15, 63, 64, 65, 255, 256, 257, 1000])
def test_chunks_are_the_whole_prompt_in_pieces_that_fit(tokens, most, overlap):
    sizes = chunk_sizes(tokens, most, overlap)
    assert sum(sizes) == tokens
    assert all(1 <= size <= most for size in sizes)
    assert len(set(sizes[:-1])) <= 1  # requests are built once for a shape


def test_a_prompt_worth_it_has_two_chunks_to_overlap():
    assert chunk_sizes(256, 256, overlap=True) == [128, 128]
    assert chunk_sizes(256, 256, overlap=False) == [256]
    assert chunk_sizes(20, 256, overlap=True) == [20]


def test_hidden_states_of_a_chunk_stay_small():
    assert all(chunk_rows(width) * width * 4 <= 4 * 2**20 for width in (512, 4096, 8192, 16384))
    assert chunk_rows(2**20) == 16
