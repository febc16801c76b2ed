"""What numbers must be at least."""

from math import isfinite

from tpi_mpi.common.errors import UserError


def at_least_one(options: object, *names: str) -> None:
    """Raises UserError for an option that is set, and to less than 1."""
    for name in names:
        value = getattr(options, name)
        if value is None:
            continue
        what = f"--{name.replace('_', '-')} is {value}"
        if not isfinite(value):
            raise UserError(f"{what}; a finite number of at least 1 is needed")
        if value < 1:
            raise UserError(f"{what}; at least 1 is needed")
