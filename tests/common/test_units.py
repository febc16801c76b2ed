"""Sizes and times as people write them."""

import pytest

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.units import format_size, parse_size, show_duration


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("3GiB", 3 * 1024**3),
        ("3GB", 3 * 1000**3),
        ("1.5 MiB", 1024**2 * 3 // 2),
        ("800mb", 800 * 1000**2),
        ("7KiB", 7 * 1024),
        ("4194304", 4 * 1024**2),
        ("2TiB", 2 * 1024**4),
    ],
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "0", "3 pounds", "1e3", "3GiBs", "nan", "0.1"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UserError, match="as in 3GiB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["1.5", "12", "1048575"])
def test_few_bytes_without_a_unit_are_a_mistake(text):
    with pytest.raises(UserError, match=f"size '{text}' has no unit; add KiB, MiB, GiB, KB, MB or GB, as in 3GiB"):
        parse_size(text)


def test_sizes_are_written_in_the_largest_unit_that_fits():
    assert format_size(1023) == "1023 B"
    assert format_size(1536) == "1.50 KiB"
    assert format_size(3 * 1024**3) == "3.00 GiB"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (42, "42 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3725, "1 h 02 min"),
        (86400 * 12 + 3600 * 3, "12 d 03 h"),
    ],
)
def test_a_time_to_wait_is_written_in_two_units(seconds, text):
    assert show_duration(seconds) == text
