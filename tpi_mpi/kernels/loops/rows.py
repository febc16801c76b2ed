"""The steps of a block besides its products and its attention, row by row.

Each step is given the address of a record of the block: :mod:`tpi_mpi.kernels.records.block`.
"""

import numpy as np

from tpi_mpi.kernels.formats import TILE
from tpi_mpi.kernels.kv_cache import PAGE
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
    ALPHA,
    CACHE,
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
    KIND,
    KV_HEADS,
    LIMIT,
    NORM,
    OWN_SEGMENTS,
    PAGE_BYTES,
    PRODUCTS,
    PRODUCTS_STEP,
    QUERIES,
    QUERY_BIAS,
    QUERY_NORM,
    QUERY_ROOM,
    RECORD,
    RESULT,
    SECOND,
    SECOND_STEP,
    SEGMENTS,
    SINES,
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
from tpi_mpi.kernels.records.segment import COUNT, FIRST_QUERY, FIRST_ROW, PAGES, SEGMENT, START


@helper
def record_at(address):
    return array_at(address, RECORD, np.int64)


@helper
def segment_at(r, index):
    return array_at(r[SEGMENTS] + 8 * SEGMENT * index, SEGMENT, np.int64)


@helper
def own_segment(r, row):
    """The segment with a row."""
    return segment_at(r, array_at(r[OWN_SEGMENTS], row + 1, np.int64)[row])


@helper
def page_at(r, s, position):
    """The address of a layer's part of the page that has a position of a segment's sequence."""
    place = position // PAGE
    return r[CACHE] + array_at(s[PAGES], place + 1, np.int64)[place] * r[PAGE_BYTES]


@helper
def tensor(r, slot):
    """The address of a tensor's arguments; 0 where the block has none."""
    return array_at(r[TABLE], slot + 1, np.int64)[slot]


@helper
def _float(bits):
    """The float32 with these bits."""
    return np.uint32(bits).view(np.float32)


@helper
def _row(address, row, step, count):
    return array_at(address + row * step, count, np.float32)


def normalise_rows(first, stop, address):
    """Hidden states to normalised ones."""
    r = record_at(address)
    width = r[WIDTH]
    for row in range(first, stop):
        states = _row(r[STATES], row, 4 * width, width)
        normalise(_row(r[HIDDEN], row, 4 * width, width), tensor(r, NORM), _float(r[EPS]), states)


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
        s = own_segment(r, row)
        own_row = row - s[FIRST_ROW]
        _put_in_packs(r, s, queries, own_row)
        page, place = page_at(r, s, s[START] + own_row), (s[START] + own_row) % PAGE
        _put_in_page(r, keys, values, page, place)
        if own_row == s[COUNT] - 1:
            _clear_after(r, page, place)


@helper
def _turn(r, states, cosines, sines, norm):
    """Normalises each of some heads, where there is a norm, and rotates it."""
    dim = r[DIM]
    for start in range(0, len(states), dim):
        own = states[start : start + dim]
        if norm != 0:
            normalise(own, norm, _float(r[EPS]), own)
        rotate(own, cosines, sines)


@helper
def _put_in_packs(r, s, queries, row):
    """The queries of one position; those of a key-value head follow each other, and are padded with zeros."""
    dim, inputs = r[DIM], r[INPUTS]
    for kv_head in range(r[KV_HEADS]):
        first, count = own_heads(r, kv_head)
        for head in range(count):
            place = row * count + head
            pack = place // r[HEIGHT] * r[HEIGHT]
            size, lane = pack_height(s[COUNT] * count - pack, r[HEIGHT]), place - pack
            target_row = kv_head * r[QUERY_ROOM] + s[FIRST_QUERY] + pack
            target = array_at(r[QUERIES] + 4 * inputs * target_row, inputs * size, np.float32)
            start = (first + head) * dim
            for i in range(dim):
                target[i * size + lane] = queries[start + i]
            for i in range(dim, inputs):
                target[i * size + lane] = 0


@helper
def _put_in_page(r, keys, values, page, place):
    dim = r[DIM]
    for kv_head in range(r[KV_HEADS]):
        own = kv_head * dim
        store_row(keys[own : own + dim], page + kv_head * r[KEY_BYTES], r[KIND], place, r[INPUTS])
        value_matrix = page + r[VALUES] + kv_head * r[VALUE_BYTES]
        store_column(values[own : own + dim], value_matrix, r[KIND], place, PAGE)


@helper
def _clear_after(r, page, place):
    """Makes the values after the last position zero, up to where a product ends: whatever is there gets no weight."""
    first, stop = place + 1, (place // TILE + 1) * TILE
    for kv_head in range(r[KV_HEADS]):
        clear_columns(page + r[VALUES] + kv_head * r[VALUE_BYTES], r[KIND], first, stop, r[DIM], PAGE)


def activate(first, stop, address):
    """Gates and what goes up to what goes down, in the place of the gates."""
    r = record_at(address)
    columns = r[COLUMNS]
    for row in range(first, stop):
        gates = _row(r[PRODUCTS], row, r[PRODUCTS_STEP], columns)
        ups = _row(r[SECOND], row, r[SECOND_STEP], columns)
        add_vector(gates, tensor(r, GATE_BIAS))
        add_vector(ups, tensor(r, UP_BIAS))
        gate(gates, ups, r[ACTIVATION], _float(r[ALPHA]), _float(r[LIMIT]))


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
