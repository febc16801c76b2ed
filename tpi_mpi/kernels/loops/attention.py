"""Attention: keys and values lie in the cache as weights do, so both of its products are those of tiles with packs.

Scores of a part of the positions are computed, made into weights, and the values' weighted sum is added to that of the
parts before, with the largest score so far kept apart (online softmax, arXiv 1805.02867). The parts are the same for
whoever computes them, and each row's results its own, so neither threads nor company change a bit.
"""

import numpy as np

from tpi_mpi.kernels.formats import TILE
from tpi_mpi.kernels.loops.atomics import call
from tpi_mpi.kernels.loops.jit import helper, reordering
from tpi_mpi.kernels.loops.memory import array_at, stack
from tpi_mpi.kernels.loops.pieces import exponential
from tpi_mpi.kernels.loops.rows import own_heads, record_at
from tpi_mpi.kernels.loops.states import pack_height
from tpi_mpi.kernels.records import product as record
from tpi_mpi.kernels.records.block import (
    CAPACITY,
    DIM,
    EXTRA,
    FIRST_SPAN,
    HEADS,
    HEIGHT,
    INPUTS,
    KEY_BYTES,
    KEYS,
    KV_HEADS,
    NUMBER_BYTES,
    PART,
    PRODUCT,
    QUERIES,
    QUERY_ROOM,
    ROWS,
    ROWS_TOGETHER,
    SPAN,
    SPANS,
    START,
    STATES,
    TOTALS,
    VALUE_BYTES,
    VALUES,
    WINDOW,
)
from tpi_mpi.kernels.table import MOST_ROWS

_SCORES, _SUMS = PART * MOST_ROWS, TILE * MOST_ROWS

_ROOM = record.ARGUMENTS + record.OPERAND_ARGUMENTS + record.MATRIX_ARGUMENTS + 2
# Numbers of float32 that the arguments of a product take.
_ARGUMENTS = 2 * _ROOM
_OPERAND, _MATRIX = record.ARGUMENTS, record.ARGUMENTS + record.OPERAND_ARGUMENTS


def attend(first, stop, address):
    """item: a span of positions, for some rows of queries, of a key-value head."""
    r = record_at(address)
    inputs, of_tile, height = r[INPUTS], TILE * r[NUMBER_BYTES], r[HEIGHT]
    size_of_total, blocks = total_size(r), row_blocks(r)
    scores, weights, sums = stack(_SCORES), stack(_SCORES), stack(_SUMS)
    scoring, mixing = stack(_ARGUMENTS), stack(_ARGUMENTS)
    prepare_product(scoring, scores, 4 * PART, inputs * of_tile)
    prepare_product(mixing, sums, 64, r[CAPACITY] * of_tile)
    for item in range(first, stop):
        span, block, kv_head = item % r[SPANS], item // r[SPANS] % blocks, item // r[SPANS] // blocks
        count = own_heads(r, kv_head)[1]
        first_row = block * ROWS_TOGETHER
        last_row = min(first_row + ROWS_TOGETHER, r[ROWS] * count)
        queries, totals = r[QUERIES] + 4 * inputs * kv_head * r[QUERY_ROOM], totals_of(r, span, kv_head)
        clear(totals, first_row, last_row, size_of_total)
        begin, end = seen_by(r, first_row, last_row, count)
        first_position = (r[FIRST_SPAN] + span) * r[SPAN]
        begin, end = max(begin, first_position), min(end, first_position + r[SPAN])
        keys, values = r[KEYS] + kv_head * r[KEY_BYTES], r[VALUES] + kv_head * r[VALUE_BYTES]
        for part in range(begin // PART * PART, end, PART):
            for row in range(first_row, last_row, height):
                used = min(row + height, last_row)
                tiles = -(-(min(seen_by(r, row, used, count)[1], end, part + PART) - part) // TILE)
                if tiles <= 0:
                    continue
                set_product(
                    scoring, used - row, inputs, queries + 4 * inputs * row, keys + part * inputs // TILE * of_tile
                )
                call(r[PRODUCT], 0, tiles, scoring)
                weigh(r, scores, weights, totals, row, used, count, part, begin, end, tiles * TILE)
                set_product(mixing, used - row, tiles * TILE, weights, values + part * of_tile)
                for tile in range(-(-r[DIM] // TILE)):
                    set_result(mixing, sums - 64 * tile)  # where the first tile's would be, if this one's are here
                    call(r[PRODUCT], tile, tile + 1, mixing)
                    gather(totals + 64 * tile, size_of_total, row, used, sums)


@helper
def prepare_product(address, result, result_step, tile_bytes):
    """The arguments of a product with a matrix in the cache, as far as they stay the same."""
    a = array_at(address, _ROOM, np.int64)
    a[:] = 0
    a[record.PLANES] = a[record.OPERANDS] = 1
    a[_OPERAND + record.OUT], a[_OPERAND + record.OUT_STEP] = result, result_step
    a[_MATRIX + record.TILE_BYTES] = tile_bytes
    a[_ROOM - 2], a[_ROOM - 1] = address + 8 * _MATRIX, address + 8 * (_ROOM - 2)  # a table of one matrix
    a[record.TABLE] = address + 8 * (_ROOM - 1)


@helper
def set_product(address, rows, inputs, ordered, matrix):
    a = array_at(address, _ROOM, np.int64)
    a[record.ROWS], a[record.INPUTS], a[record.ORDERED] = rows, inputs, ordered
    a[_MATRIX + record.WEIGHTS] = matrix


@helper
def set_result(address, result):
    array_at(address, _ROOM, np.int64)[_OPERAND + record.OUT] = result


@helper
def total_size(r):
    """Bytes of a row's total: its numbers, with padding, and what else must be known of it."""
    return 4 * (-(-r[DIM] // TILE) * TILE + EXTRA)


@helper
def totals_of(r, span, kv_head):
    """The address of the totals of a span's rows of queries."""
    return r[TOTALS] + (span * r[KV_HEADS] + kv_head) * r[QUERY_ROOM] * total_size(r)


@helper
def row_blocks(r):
    return -(-r[QUERY_ROOM] // ROWS_TOGETHER)


@helper
def seen_by(r, first_row, last_row, count):
    """The positions that some rows see, from the first of any up to the last; ``count`` rows have the same position."""
    first, last = r[START] + first_row // count, r[START] + (last_row - 1) // count
    return (max(0, first - r[WINDOW] + 1) if r[WINDOW] > 0 else 0), last + 1


@helper
def clear(totals, first_row, last_row, size):
    for row in range(first_row, last_row):
        total = array_at(totals + row * size, size // 4, np.float32)
        total[:] = 0
        total[len(total) - EXTRA] = -np.inf


@helper
def weigh(r, scores, weights, totals, row, used, count, part, begin, end, positions):
    """Scores (size, PART) to weights (positions, size) of the values; totals so far shrink if scores are larger."""
    size = pack_height(used - row, r[HEIGHT])
    target = array_at(weights, positions * size, np.float32)
    target[:] = 0
    factor = np.float32(1) / np.sqrt(np.float32(r[DIM]))
    for lane in range(used - row):
        own = array_at(scores + 4 * PART * lane, positions, np.float32)
        total = array_at(totals + (row + lane) * total_size(r), total_size(r) // 4, np.float32)
        first, last = seen_by(r, row + lane, row + lane + 1, count)
        first, last = max(first, begin) - part, min(last, end) - part
        first, last = max(first, 0), min(last, positions)
        if first < last:
            _weigh_row(own[first:last], total, factor)
            for t in range(first, last):
                target[t * size + lane] = own[t]


@helper
def _weigh_row(scores, total, factor):
    """Replaces scores by their weights."""
    most = len(total) - EXTRA
    before = total[most]
    largest = max(before, _largest(scores) * factor)
    shrink = exponential(before - largest)
    for t in range(len(scores)):
        x = scores[t] * factor - largest
        scores[t] = exponential(x) + (x - x)  # what is no number stays none
    total[most] = largest
    total[most + 1] = total[most + 1] * shrink + _sum(scores)
    for i in range(most):
        total[i] *= shrink


@reordering
def _largest(numbers):
    largest = numbers[0]
    for t in range(len(numbers)):
        largest = max(largest, numbers[t])
    return largest


@reordering
def _sum(numbers):
    total = np.float32(0)
    for t in range(len(numbers)):
        total += numbers[t]
    return total


@helper
def gather(totals, size, row, used, sums):
    """Adds sums (rows, 16) to some numbers of each row's total."""
    for lane in range(used - row):
        total = array_at(totals + (row + lane) * size, TILE, np.float32)
        own = array_at(sums + 64 * lane, TILE, np.float32)
        for i in range(TILE):
            total[i] += own[i]


def combine(first, stop, address):
    """Spans' totals to attention's results, (rows, heads * dim): those with the largest scores count most."""
    r = record_at(address)
    dim, most = r[DIM], total_size(r) // 4 - EXTRA
    for row in range(first, stop):
        for kv_head in range(r[KV_HEADS]):
            first_head, count = own_heads(r, kv_head)
            for head in range(count):
                place = r[STATES] + 4 * dim * (row * r[HEADS] + first_head + head)
                _combine_one(r, array_at(place, dim, np.float32), kv_head, row * count + head, most)


@helper
def _combine_one(r, result, kv_head, row, most):
    largest, weight = np.float32(-np.inf), np.float32(0)
    for span in range(r[SPANS]):
        largest = max(largest, _total(r, span, kv_head, row)[most])
    result[:] = 0
    for span in range(r[SPANS]):
        total = _total(r, span, kv_head, row)
        share = exponential(total[most] - largest)
        weight += total[most + 1] * share
        for i in range(len(result)):
            result[i] += total[i] * share
    for i in range(len(result)):
        result[i] /= weight


@helper
def _total(r, span, kv_head, row):
    size = total_size(r)
    return array_at(totals_of(r, span, kv_head) + row * size, size // 4, np.float32)
