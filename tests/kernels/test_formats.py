"""The names of formats, which are keys of reports."""

import pytest
from operands import FORMATS

from tpi_mpi.kernels.formats import Format


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_a_format_can_be_read_from_its_name(format):
    assert str(Format.parse(str(format))) == str(format)


@pytest.mark.parametrize(
    "text", ["", "int4", "int4 by", "float32 by 32", "int4 by 32 and more", "float32 with zero points"]
)
def test_anything_else_is_no_format(text):
    with pytest.raises(ValueError, match="is no format"):
        Format.parse(text)
