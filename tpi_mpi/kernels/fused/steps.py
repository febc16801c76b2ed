"""The steps of a block besides its products and its attention, row by row.

Each step is given the address of a record of the block: what this call is about, and where everything is.
"""

import numpy as np

from tpi_mpi.kernels.compiled.jit import helper
from tpi_mpi.kernels.compiled.memory import array_at
from tpi_mpi.kernels.compiled.states import pack_height
from tpi_mpi.kernels.formats import TILE
from tpi_mpi.kernels.fused.pieces import (
    add_vector,
    clear_columns,
    gate,
    normalise,
    rotate,
    store_column,
    store_row,
)

(
    TABLE,  # address: of the addresses of the tensors' arguments
    HIDDEN,  # address: float32 (rows, width)
    RESULT,  # address: float32 (rows, width)
    KEYS,  # address: of a layer's, in the cache
    VALUES,
    COSINES,  # address: float32 (rows, half)
    SINES,
    START,  # the position of the first row
    SPANS,  # how many items of work share the positions that a row sees
    WINDOW,  # positions that a query sees, itself included; 0 for all
    CALL,  # how many numbers change from call to call: those above
) = range(11)
(
    ROWS,
    WIDTH,
    COLUMNS,
    EPS,  # the bits of a float32
    ACTIVATION,
    STATES,  # address: float32 (rows, width), or what else is multiplied
    HEADS,
    KV_HEADS,
    HEADS_PER_KV,
    FIRST_HEAD,  # the place of the first query head among those that read its key-value head
    DIM,  # numbers of a head
    INPUTS,  # the same with the padding of a tile
    HALF,  # pairs that are rotated
    CAPACITY,  # positions of the cache
    KIND,  # of numbers in it
    NUMBER_BYTES,
    KEY_BYTES,  # from one head's keys to the next's
    VALUE_BYTES,
    PRODUCT,  # address: of the kernel that multiplies with them
    HEIGHT,  # of its packs
    QUERIES,  # address: float32, in packs
    QUERY_ROOM,  # rows of queries of a key-value head, with padding
    TOTALS,  # address: of weighted sums of values
    SPAN,  # positions of one of them
    PRODUCTS,  # address: of the first operand's results, and bytes from row to row
    PRODUCTS_STEP,
    SECOND,
    SECOND_STEP,
    THIRD,
    THIRD_STEP,
    FINAL_STEP,  # bytes from row to row of the last product's results
    FINAL_BIAS,  # where the table has its bias
    RECORD,
) = range(CALL, CALL + 33)
"""The places of a record's numbers, which are int64, and how many there are."""

NORM, QUERY, KEY, VALUE, OUTPUT, QUERY_BIAS, KEY_BIAS, VALUE_BIAS, OUTPUT_BIAS, QUERY_NORM, KEY_NORM = range(11)
"""The places of an attention block's tensors in the table."""

GATE, UP, DOWN, GATE_BIAS, UP_BIAS, DOWN_BIAS = range(1, 7)
"""Those of a feed-forward block's, after its norm."""

HEAD = 1
"""That of the output head, after the final norm."""


@helper
def record_at(address):
    return array_at(address, RECORD, np.int64)


@helper
def tensor(r, slot):
    """The address of a tensor's arguments; 0 where the block has none."""
    return array_at(r[TABLE], slot + 1, np.int64)[slot]


@helper
def _eps(r):
    return np.uint32(r[EPS]).view(np.float32)


@helper
def _row(address, row, step, count):
    return array_at(address + row * step, count, np.float32)


def normalise_rows(first, stop, address):
    """Hidden states to normalised ones."""
    r = record_at(address)
    width = r[WIDTH]
    for row in range(first, stop):
        states = _row(r[STATES], row, 4 * width, width)
        normalise(_row(r[HIDDEN], row, 4 * width, width), tensor(r, NORM), _eps(r), states)


@helper
def own_heads(r, kv_head):
    """The query heads that read a key-value head: the first, and how many."""
    first = max(0, kv_head * r[HEADS_PER_KV] - r[FIRST_HEAD])
    stop = min(r[HEADS], (kv_head + 1) * r[HEADS_PER_KV] - r[FIRST_HEAD])
    return first, stop - first


def prepare_heads(first, stop, address):
    """Projections to heads: with biases and norms, and rotated; queries are put in packs, the others in the cache."""
    r = record_at(address)
    dim, half = r[DIM], r[HALF]
    for row in range(first, stop):
        cosines, sines = _row(r[COSINES], row, 4 * half, half), _row(r[SINES], row, 4 * half, half)
        queries = _row(r[PRODUCTS], row, r[PRODUCTS_STEP], r[HEADS] * dim)
        keys = _row(r[SECOND], row, r[SECOND_STEP], r[KV_HEADS] * dim)
        values = _row(r[THIRD], row, r[THIRD_STEP], r[KV_HEADS] * dim)
        add_vector(queries, tensor(r, QUERY_BIAS))
        add_vector(keys, tensor(r, KEY_BIAS))
        add_vector(values, tensor(r, VALUE_BIAS))
        _turn(r, queries, cosines, sines, tensor(r, QUERY_NORM))
        _turn(r, keys, cosines, sines, tensor(r, KEY_NORM))
        _put_in_packs(r, queries, row)
        _put_in_cache(r, keys, values, r[START] + row)
        if row == r[ROWS] - 1:
            _clear_after(r, r[START] + row)


@helper
def _turn(r, states, cosines, sines, norm):
    """Normalises each of some heads, where there is a norm, and rotates it."""
    dim = r[DIM]
    for start in range(0, len(states), dim):
        own = states[start : start + dim]
        if norm != 0:
            normalise(own, norm, _eps(r), own)
        rotate(own, cosines, sines)


@helper
def _put_in_packs(r, queries, row):
    """The queries of one position; those of a key-value head follow each other, and are padded with zeros."""
    dim, inputs = r[DIM], r[INPUTS]
    for kv_head in range(r[KV_HEADS]):
        first, count = own_heads(r, kv_head)
        for head in range(count):
            place = row * count + head
            pack = place // r[HEIGHT] * r[HEIGHT]
            size, lane = pack_height(r[ROWS] * count - pack, r[HEIGHT]), place - pack
            target = array_at(r[QUERIES] + 4 * inputs * (kv_head * r[QUERY_ROOM] + pack), inputs * size, np.float32)
            start = (first + head) * dim
            for i in range(dim):
                target[i * size + lane] = queries[start + i]
            for i in range(dim, inputs):
                target[i * size + lane] = 0


@helper
def _put_in_cache(r, keys, values, position):
    dim = r[DIM]
    for kv_head in range(r[KV_HEADS]):
        own = kv_head * dim
        store_row(keys[own : own + dim], r[KEYS] + kv_head * r[KEY_BYTES], r[KIND], position, r[INPUTS])
        value_matrix = r[VALUES] + kv_head * r[VALUE_BYTES]
        store_column(values[own : own + dim], value_matrix, r[KIND], position, r[CAPACITY])


@helper
def _clear_after(r, position):
    """Makes the values after the last position zero, up to where a product ends: whatever is there gets no weight."""
    first, stop = position + 1, (position // TILE + 1) * TILE
    for kv_head in range(r[KV_HEADS]):
        clear_columns(r[VALUES] + kv_head * r[VALUE_BYTES], r[KIND], first, stop, r[DIM], r[CAPACITY])


def activate(first, stop, address):
    """Gates and what goes up to what goes down, in the place of the gates."""
    r = record_at(address)
    columns = r[COLUMNS]
    for row in range(first, stop):
        gates = _row(r[PRODUCTS], row, r[PRODUCTS_STEP], columns)
        ups = _row(r[SECOND], row, r[SECOND_STEP], columns)
        add_vector(gates, tensor(r, GATE_BIAS))
        add_vector(ups, tensor(r, UP_BIAS))
        gate(gates, ups, r[ACTIVATION])


def finish(first, stop, address):
    """The last product's results to where they were asked for, with their bias."""
    r = record_at(address)
    width = r[WIDTH]
    for row in range(first, stop):
        result = _row(r[RESULT], row, 4 * width, width)
        product = _row(r[PRODUCTS], row, r[FINAL_STEP], width)
        for i in range(width):  # which compiles much faster than an assignment of arrays
            result[i] = product[i]
        if r[FINAL_BIAS] > 0:
            add_vector(result, tensor(r, r[FINAL_BIAS]))
