"""Sizes, times and rates as people write and read them."""

import itertools
import re

from tpi_mpi.common.errors import UserError

_FACTORS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _FACTORS[f"{_letter}ib"] = 1024**_power
    _FACTORS[f"{_letter}b"] = 1000**_power

KIB = 1024
MIB = 1024**2
GIB = 1024**3


def parse_size(text: str) -> int:
    """The bytes of a size such as ``3GiB``, ``800 MB`` or ``1.5gib``; a bare number, of a mebibyte or more, is bytes.

    Raises UserError for anything else, including zero and negative sizes.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    factor = _FACTORS.get(match[2].lower()) if match else None
    size = int(float(match[1]) * factor) if factor else 0
    if size < 1:
        raise UserError(f"size {text!r} is not a positive number with KiB, MiB, GiB, KB, MB or GB, as in 3GiB")
    if not match[2] and size < MIB:  # who writes 1.5 does not mean a byte
        raise UserError(f"size {text!r} has no unit; add KiB, MiB, GiB, KB, MB or GB, as in 3GiB")
    return size


def format_size(size: int) -> str:
    """Bytes as text, in the largest binary unit that leaves at least 1: ``1.50 GiB``."""
    for letter in "TGMK":
        unit = 1024 ** ("KMGT".index(letter) + 1)
        if size >= unit:
            return f"{size / unit:.2f} {letter}iB"
    return f"{size} B"


def show_seconds(seconds: float) -> str:
    """A time as text, in milliseconds below one second."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def show_duration(seconds: float) -> str:
    """A time that somebody has to wait, as text: ``42 s``, ``3 min 05 s``, ``1 h 02 min``, ``2 d 03 h``."""
    count, units = round(seconds), (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (name, size), (next_name, next_size) in itertools.pairwise(units):
        if count >= size:
            return f"{count // size} {name} {count % size // next_size:02d} {next_name}"
    return f"{count} s"


def show_rate(rate: float) -> str:
    """Bytes per second as text, in GB/s."""
    return f"{rate / 1e9:.2f} GB/s"
