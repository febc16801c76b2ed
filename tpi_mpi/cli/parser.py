"""A parser of command lines, and the kinds of its values."""

import argparse
from typing import NoReturn

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.units import parse_size


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are UserErrors, so that they are shown like all other mistakes."""

    def __init__(self, **settings):
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see --help")


def size_argument(text: str) -> int:
    """Bytes, for argparse, which shows the message of an ArgumentTypeError."""
    try:
        return parse_size(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def bias_argument(text: str) -> tuple[str, float]:
    """A token id, which is checked later, and its bias, for argparse."""
    id, _, bias = text.partition("=")
    try:
        return id, float(bias)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not ID=BIAS, as in 50256=-100") from None


def batch_argument(text: str) -> int | None:
    """The most sequences at once, for argparse; None for ``auto``."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither auto nor a whole number") from None
