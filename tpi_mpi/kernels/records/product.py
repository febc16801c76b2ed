"""The arguments of a product, in the order in which they follow each other: of its states, then of each operand."""

(
    STATES,  # address: float32 (rows, columns)
    STATES_STEP,  # bytes from one row of them to the next
    ROWS,
    COLUMNS,
    LEAD,  # inputs ahead of the first column, which are zero
    INPUTS,  # with padding on both sides
    HEIGHT,
    GROUP,
    GROUPS,
    PLANES,
    CODE_OFFSET,
    ORDERED,  # address: bytes, float32 or bfloat16
    STEPS,  # address: float32
    OFFSETS,  # address: int32
    SUMS,  # address: float32
    TABLE,  # address of the address of a table of addresses of tensors' arguments
    OPERANDS,  # how many follow
    ARGUMENTS,
) = range(18)
"""The places of a product's arguments, and how many there are."""

(
    SLOT,  # where the table has the address of its arguments
    TILES_BEFORE,  # of the operands before this one
    OUT,  # address
    OUT_STEP,  # bytes of a row of results
    OPERAND_ARGUMENTS,
) = range(5)
"""The places of an operand's own arguments, and how many there are."""

(
    WEIGHTS,  # address
    SCALES,  # address
    ZERO_POINTS,  # address
    TILE_BYTES,  # of weights
    TILE_SCALE_BYTES,  # of scales, and of zero points
    SCALE_STEP,  # bytes from one group's scales to the next's
    MATRIX_ARGUMENTS,
) = range(7)
"""The places of a matrix's arguments, and how many there are; see :attr:`tpi_mpi.kernels.operand.Operand.arguments`."""
