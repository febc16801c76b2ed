"""A matrix that comes in pieces of any height is packed as the whole of it."""

import numpy as np
import packed
import pytest

from tpi_mpi.kernels.formats import Format, Tiled
from tpi_mpi.kernels.packing import Rows, pack
from weights_tools.splitting import tiles
from weights_tools.splitting.conversion import convert
from weights_tools.splitting.tiles import Tiles


def rows_in(format: Format, rows: int, columns: int) -> Rows:
    values = np.random.default_rng(0).standard_normal((rows, columns), np.float32)
    return packed.packed(Rows(values), Format("float32"), format)


@pytest.mark.parametrize("heights", [[100], [1] * 100, [16, 84], [7, 40, 3, 50], [96, 4]])
@pytest.mark.parametrize("name", packed.FORMATS)
@pytest.mark.parametrize("at_once", [1, 5000, 10**6])
def test_pieces_of_any_height_are_packed_as_the_whole(name, heights, at_once, monkeypatch):
    monkeypatch.setattr(tiles, "_AT_ONCE", at_once)
    layout = Tiled(packed.FORMATS[name], 100, 72)
    rows, first = rows_in(layout.format, 100, 72), 0
    own, codes = Tiles(layout), []
    for height in heights:
        assert own.rest() == []
        codes += own.add(rows[first : first + height])
        first += height
    expected = pack(rows, layout)
    for part, whole in zip([np.concatenate(codes), *own.rest()], expected, strict=True):
        assert np.array_equal(part, whole)


def test_more_rows_than_the_matrix_has_are_a_mistake_of_the_program():
    own = Tiles(Tiled(Format("float32"), 4, 32))
    with pytest.raises(AssertionError, match="2 rows more than the matrix has"):
        list(own.add(Rows(np.zeros((6, 32), np.float32))))


@pytest.mark.parametrize("name", packed.FORMATS)
def test_what_has_the_format_already_is_not_touched(name):
    rows = rows_in(packed.FORMATS[name], 4, 72)
    assert convert(rows, packed.FORMATS[name], packed.FORMATS[name], "w") is rows
