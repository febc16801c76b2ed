"""The options for the formats that weights are stored in, for every program that writes slabs."""

from argparse import Namespace
from collections.abc import Mapping, Sequence

from tpi_mpi.cli.parser import Parser
from tpi_mpi.common.errors import UserError
from tpi_mpi.kernels.formats import FLOATS, GROUPS, Format
from tpi_mpi.weights.slabs.stored_formats import KEEP, StoredFormats

QUANTIZED = ("int8", "int4")
"""The dtypes that weights are rounded to group by group."""

HEAD_DTYPES = (KEEP, *FLOATS, *QUANTIZED)


def add_format_arguments(parser: Parser, dtypes: Sequence[str], default: str) -> None:
    """Adds --dtype, with these choices, and the options that go into its details."""
    add = parser.add_argument
    packed = "; int8 and int4 are for the matrices of the layers" if default == KEEP else ""
    add("--dtype", default=default, choices=dtypes, help=f"of the weights (default: {default}){packed}")
    add("--head-dtype", choices=HEAD_DTYPES, help="of the output head (default: as --dtype; int8 if that is packed)")
    group = "weights of int8 and int4 that share a scale (default: 32)"
    add("--group", metavar="|".join(map(str, GROUPS)), type=int, choices=GROUPS, help=group)
    add("--zero-points", action="store_true", help="give each group of int4 a zero point")


def stored_formats(options: Namespace, sources: Mapping[str, Format]) -> StoredFormats:
    """What the options ask for, of a source in these formats."""
    return StoredFormats.asked(sources, options.dtype, options.head_dtype, options.group or 32, options.zero_points)


def check_formats(options: Namespace) -> None:
    """Raises UserError for details of a format that nothing is stored in, not even a draft."""
    asked = {options.dtype, options.head_dtype, vars(options).get("with_draft")}
    if options.zero_points and "int4" not in asked:
        raise UserError(f"--zero-points is for int4, not for --dtype {options.dtype}; give --dtype int4 too")
    if options.group is not None and not asked & set(QUANTIZED):
        also = "give --dtype int4 or int8 too"
        raise UserError(f"--group {options.group} is for int8 and int4, not for --dtype {options.dtype}; {also}")
