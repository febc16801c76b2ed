"""The steps of a block besides its products and its attention, row by row.

Each step is given the address of a record of the block: :mod:`tpi_mpi.kernels.records.block`.
"""

import numpy as np

from tpi_mpi.kernels.formats import TILE
from tpi_mpi.kernels.loops.jit import helper
from tpi_mpi.kernels.loops.memory import array_at
from tpi_mpi.kernels.loops.pieces import (
    add_vector,
    clear_columns,
    gate,
    normalise,
    rotate,
    store_column,
    store_row,
)
from tpi_mpi.kernels.loops.states import pack_height
from tpi_mpi.kernels.records.block import (
    ACTIVATION,
    CAPACITY,
    COLUMNS,
    COSINES,
    DIM,
    EPS,
    FINAL_BIAS,
    FINAL_STEP,
    FIRST_HEAD,
    GATE_BIAS,
    HALF,
    HEADS,
    HEADS_PER_KV,
    HEIGHT,
    HIDDEN,
    INPUTS,
    KEY_BIAS,
    KEY_BYTES,
    KEY_NORM,
    KEYS,
    KIND,
    KV_HEADS,
    NORM,
    PRODUCTS,
    PRODUCTS_STEP,
    QUERIES,
    QUERY_BIAS,
    QUERY_NORM,
    QUERY_ROOM,
    RECORD,
    RESULT,
    ROWS,
    SECOND,
    SECOND_STEP,
    SINES,
    START,
    STATES,
    TABLE,
    THIRD,
    THIRD_STEP,
    UP_BIAS,
    VALUE_BIAS,
    VALUE_BYTES,
    VALUES,
    WIDTH,
)


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
        add_vector(result, tensor(r, r[FINAL_BIAS]))
