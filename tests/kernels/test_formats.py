"""The names of formats, which are keys of reports."""

import pytest
from operands import FORMATS

from tpi_mpi.kernels.formats import Format


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_a_format_can_be_read_from_its_name(format):
    assert Format.parse(str(format)) == format


def test_scales_are_named_where_they_are_not_the_usual_ones():
    assert str(Format("int8", 32, "float32")) == "int8 by 32 with float32 scales"
    assert str(Format("int4", 0, "float32", zero_points=True)) == "int4 by rows with zero points and float32 scales"
    assert str(Format("float8", 128, "float32")) == "float8 by 128"


@pytest.mark.parametrize(
    ("dtype", "group", "scales", "zero_points"),
    [
        ("int5", 32, "float16", False),
        ("float32", 32, "", False),
        ("float32", 0, "float16", False),
        ("float32", 0, "", True),
        ("int4", 32, "", False),
        ("int8", 32, "e8m0", False),
        ("mxfp4", 32, "float16", False),
        ("mxfp4", 32, "e8m0", True),
        ("float8", 128, "float16", False),
        ("float8", 128, "float32", True),
    ],
)
def test_what_no_kernel_multiplies_with_is_no_format(dtype, group, scales, zero_points):
    with pytest.raises(ValueError, match=f"there is no format .*{dtype}"):
        Format(dtype, group, scales, zero_points)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "int4",
        "int4 by",
        "int4 by 032",
        "float32 by 32",
        "float32 with zero points",
        "float8 by 32 with zero points",
        "int4 by 32 and more",
        "int4 by 32 and float32 scales",
        "int4 by 32 with float16 scales",
        "int4 by 32 with odd scales",
    ],
)
def test_anything_else_is_no_format(text):
    with pytest.raises(ValueError, match="no format"):
        Format.parse(text)
