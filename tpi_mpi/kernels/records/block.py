"""The record of a block's steps: what a call is about, and where everything is."""

(
    TABLE,  # address: of the addresses of the tensors' arguments
    HIDDEN,  # address: float32 (rows, width)
    RESULT,  # address: float32 (rows, width)
    CACHE,  # address: of a layer's keys and values in the first page
    COSINES,  # address: float32 (rows, half)
    SINES,
    SEGMENTS,  # address: of a table of segments
    SEGMENTS_COUNT,
    OWN_SEGMENTS,  # address: int64 (rows,), which segment each row is in
    WINDOW,  # positions that a query sees, itself included; 0 for all
    CALL,  # how many numbers change from call to call: those above
) = range(11)
(
    ROWS,
    WIDTH,
    COLUMNS,
    EPS,  # the bits of a float32
    ACTIVATION,
    ALPHA,  # of the activation: the bits of a float32
    LIMIT,
    STATES,  # address: float32 (rows, width), or what else is multiplied
    HEADS,
    KV_HEADS,
    HEADS_PER_KV,
    FIRST_HEAD,  # the place of the first query head among those that read its key-value head
    DIM,  # numbers of a head
    INPUTS,  # the same with the padding of a tile
    HALF,  # pairs that are rotated
    KIND,  # of numbers in the cache
    NUMBER_BYTES,
    PAGE_BYTES,  # from one page to the next
    VALUES,  # bytes from a layer's keys to its values
    KEY_BYTES,  # from one head's keys to the next's
    VALUE_BYTES,
    PRODUCT,  # address: of the kernel that multiplies with them
    HEIGHT,  # of its packs
    QUERIES,  # address: float32, in packs
    QUERY_ROOM,  # rows of queries of a key-value head, with padding
    TOTALS,  # address: of weighted sums of values
    SPLIT,  # whether each span of positions is an item of work of its own
    PRODUCTS,  # address: of the first operand's results, and bytes from row to row
    PRODUCTS_STEP,
    SECOND,
    SECOND_STEP,
    THIRD,
    THIRD_STEP,
    FINAL_STEP,  # bytes from row to row of the last product's results
    FINAL_BIAS,  # where the table has its bias
    RECORD,
) = range(CALL, CALL + 36)
"""The places of a record's numbers, which are int64, and how many there are."""

NORM, QUERY, KEY, VALUE, OUTPUT = range(5)
QUERY_BIAS, KEY_BIAS, VALUE_BIAS, OUTPUT_BIAS, QUERY_NORM, KEY_NORM, SINKS = range(5, 12)
"""The places of an attention block's tensors in the table."""

GATE, UP, DOWN, GATE_BIAS, UP_BIAS, DOWN_BIAS = range(1, 7)
"""Those of a feed-forward block's, after its norm."""

SILU, RELU, GELU, GELU_TANH, CLAMPED_SWIGLU = range(5)
"""Activations."""

PART = 256
"""Positions whose scores are computed together."""

SPAN = 2 * PART
"""Positions whose values are summed up before the sums of spans are put together."""

ROWS_TOGETHER = 128
"""Rows of queries that one item of work attends for: more amortize reading keys and values, fewer share the work."""

EXTRA = 2
"""Numbers that follow each total of values: the largest score, and the sum of the weights."""
