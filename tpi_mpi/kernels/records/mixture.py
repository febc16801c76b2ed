"""The record of a mixture of experts: what a call is about, and where everything is.

A pair is a row and an expert that it is given to; pairs are in the order of experts, and then of rows.
"""

(
    TABLE,  # address: of the addresses of the router's tensors' arguments
    HIDDEN,  # address: float32 (rows, width)
    RESULT,  # address: float32 (rows, width)
    CHOSEN,  # address: int64 (rows, top k)
    SHARES,  # address: float32 (rows, top k)
    CALL,  # how many numbers change from call to call: those above
) = range(6)
(
    ROWS,
    WIDTH,
    EPS,  # the bits of a float64
    EXPERTS,
    TOP_K,
    SCORING,
    NORMALISED,
    SCALE,  # the bits of a float64
    STATES,  # address: float32 (rows, width)
    LOGITS,  # address: float64 (rows, experts)
    FIRST_PAIRS,  # address: int64 (experts + 1,), how many pairs there are before each expert's
    NEXT_PAIRS,  # address: int64 (experts,), while they are dealt
    PAIR_ROWS,  # address: int64, the row of each pair
    PAIR_SHARES,  # address: float32
    WANTED,  # address: int64 (1 + experts,): how many experts have rows, and which
    KEPT,  # address: float32, the results of all pairs; 0 if they are added up at once
    KEPT_PLACES,  # address: int64 (experts,), which row of those is each expert's first
    OUTPUT_STEP,  # bytes of a row of results
    RUNS,  # address: how many runs of pairs to add up; then those
    PRESENTS,  # address: the experts that are in memory
    PRESENTS_COUNT,
    NEXT_PRESENT,  # the first of them that is not done
    NEXT_ROW,  # and the first of its rows that is not
    PLACES,  # rows of results at a time, with padding
    THREADS,
    TEMPLATES,  # address: of jobs, as far as they are the same for all experts with a record
    JOBS,  # address: of those at the moment
    GROUPS,  # address: for each step, a group of parts
    GROUP_BYTES,
    GATHERED,  # address: the rows of the jobs
    ORDERED,  # address: those in order
    PROJECTED,  # address: results of gates and of what goes up
    OUTPUTS,  # address: results, unless they are kept
    GROUPED,  # address: of the kernel for groups
    SUM,  # address: of the kernel that adds up
    GATHER,  # addresses: of kernels for jobs
    ACTIVATE,
    ADD_BIAS,
    RECORD,
) = range(CALL, CALL + 39)
"""The places of a record's numbers, which are int64, and how many there are."""

NORM, ROUTER, BIAS, CORRECTION = range(4)
"""The places of a router's tensors in the table."""

SOFTMAX, SIGMOID, SOFTMAX_OF_CHOSEN = range(3)
"""Scorings."""

EXPERTS_TOGETHER = 8
"""Experts whose logits are one item of work."""

ROWS_TOGETHER = 2
"""And rows: a weight that has been read is multiplied with all of them."""

COLUMNS_TOGETHER = 256
"""Columns of the result that are one item of work."""

PIECE = 256
"""Rows of an expert that are done at a time, at most; a multiple of all packs' heights."""

NUMBER, TEMPLATE, ADDRESS, PRESENT = range(4)
"""An expert in memory: its number, that of its template, and where its record begins."""

RUN_PAIR, RUN_COUNT, RUN_ADDRESS, RUN = range(4)
"""A run of pairs with one expert: the first, how many, and the address of the first one's result."""
