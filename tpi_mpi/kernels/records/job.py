"""A job: rows that go through one expert. All that kernels need to know of it lies in a piece, as int64.

A template is a job without addresses: where there will be one of the expert's, it has bytes from the record's first.
"""

from tpi_mpi.kernels.records import block, product

MATRICES = 3
"""Gate, up and down, in this order, and so their biases."""

# It begins with the record of a block.
TENSORS = block.RECORD
"""The table of tensors: in the order of a feed-forward block's."""

MATRIX = TENSORS + 1 + 2 * MATRICES
"""The arguments of matrices."""

VECTOR = MATRIX + MATRICES * product.MATRIX_ARGUMENTS
"""Those of biases: an address and a kind. The kind is NONE where there is no bias."""

PRODUCT = VECTOR + 2 * MATRICES
"""Products: what is first, a second one if gates and what goes up are not alike, and the last one."""

PRODUCTS, LAST = 3, 2

OPERANDS = 2
(
    ORDER,  # address: of the kernel that orders its states
    MULTIPLY,
    TILES,  # 0 if there is no such product
    TILE_BYTES,
    STATES_BYTES,  # of a row of states in order
    PRODUCT_NUMBERS,
) = range(
    product.ARGUMENTS + OPERANDS * product.OPERAND_ARGUMENTS,
    product.ARGUMENTS + OPERANDS * product.OPERAND_ARGUMENTS + 6,
)
"""What follows a product's arguments."""

PAIRS = PRODUCT + PRODUCTS * PRODUCT_NUMBERS
"""The address of the rows of its pairs."""

JOB = PAIRS + 1

NONE = -1

(
    GATHERING,
    ORDERING,
    MULTIPLYING,
    ORDERING_MORE,
    MULTIPLYING_MORE,
    ACTIVATING,
    ORDERING_LAST,
    MULTIPLYING_LAST,
    BIASING,
) = range(9)
"""The steps."""

STEPS = 9

PARTS, ITEMS, TOGETHER, BYTES, GROUP = range(5)
"""A group begins with how many parts it has, how many items, how many are claimed at a time, and bytes of weights."""

FIRST_ITEM, KERNEL, ARGUMENTS, PART = range(4)
"""A part of a group: the items before it, its kernel's address, and that of its arguments."""
