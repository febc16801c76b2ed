"""Attention: keys and values lie in the cache as weights do, so both of its products are those of tiles with packs.

Scores of a part of the positions are computed, made into weights, and the values' weighted sum is added to that of the
parts before, with the largest score so far kept apart (online softmax, arXiv 1805.02867). After a span of several parts
the sum is complete, and joins that of the spans before. Parts and spans are the same for whoever computes them, and
each row's results its own, so neither threads nor company change a bit.
"""

import numpy as np

from tpi_mpi.kernels.formats import TILE
from tpi_mpi.kernels.kv_cache import PAGE
from tpi_mpi.kernels.loops.atomics import call
from tpi_mpi.kernels.loops.jit import helper, reordering
from tpi_mpi.kernels.loops.memory import array_at, stack
from tpi_mpi.kernels.loops.pieces import exponential, number_of
from tpi_mpi.kernels.loops.rows import own_heads, own_segment, page_at, record_at, segment_at, tensor
from tpi_mpi.kernels.loops.states import pack_height
from tpi_mpi.kernels.records import product as record
from tpi_mpi.kernels.records.block import (
    DIM,
    EXTRA,
    HEADS,
    HEIGHT,
    INPUTS,
    KEY_BYTES,
    KV_HEADS,
    NUMBER_BYTES,
    PART,
    PRODUCT,
    QUERIES,
    QUERY_ROOM,
    ROWS_TOGETHER,
    SEGMENTS_COUNT,
    SINKS,
    SPAN,
    SPLIT,
    STATES,
    TOTALS,
    VALUE_BYTES,
    VALUES,
    WINDOW,
)
from tpi_mpi.kernels.records.segment import (
    COUNT,
    FIRST_ITEM,
    FIRST_QUERY,
    FIRST_ROW,
    FIRST_SPAN,
    FIRST_TOTAL,
    QUERY_PLACES,
    SPANS,
    START,
)
from tpi_mpi.kernels.table import MOST_ROWS

# Tiles of a head's values whose sums are computed by one call.
_TILES = 16
_SCORES, _SUMS = PART * MOST_ROWS, _TILES * TILE * MOST_ROWS

_ROOM = record.ARGUMENTS + record.OPERAND_ARGUMENTS + record.MATRIX_ARGUMENTS + 2
# Numbers of float32 that the arguments of a product take.
_ARGUMENTS = 2 * _ROOM
_OPERAND, _MATRIX = record.ARGUMENTS, record.ARGUMENTS + record.OPERAND_ARGUMENTS


def attend(first, stop, address):
    """item: some rows of queries of a key-value head, of a segment; and a single span of positions, if they are split.

    Totals of split spans are kept apart, for :func:`combine`. Otherwise each joins the first one, as it is complete.
    """
    r = record_at(address)
    inputs, of_tile = r[INPUTS], TILE * r[NUMBER_BYTES]
    scores, weights, sums = stack(_SCORES), stack(_SCORES), stack(_SUMS)
    scoring, mixing = stack(_ARGUMENTS), stack(_ARGUMENTS)
    prepare_product(scoring, 4 * PART, inputs * of_tile)
    prepare_product(mixing, 4 * TILE * min(_TILES, dim_tiles(r)), PAGE * of_tile)
    for item in range(first, stop):
        s = _segment_of_item(r, item)
        split = s[SPANS] if r[SPLIT] != 0 else 1
        blocks, own = row_blocks(s), item - s[FIRST_ITEM]
        kv_head, block, first_span = own // split // blocks, own // split % blocks, own % split
        count = own_heads(r, kv_head)[1]
        first_row = block * ROWS_TOGETHER
        last_row = min(first_row + ROWS_TOGETHER, s[COUNT] * count)
        for span in range(first_span, first_span + 1 if r[SPLIT] != 0 else s[SPANS]):
            place = span if r[SPLIT] != 0 else min(span, 1)
            totals = totals_of(r, s, kv_head, place)
            clear(totals, first_row, last_row, total_size(r))
            _attend_to_span(
                r, s, kv_head, count, first_row, last_row, span, totals, scores, weights, sums, scoring, mixing
            )
            if place > 0 and r[SPLIT] == 0:
                for row in range(first_row, last_row):
                    join(_total(r, s, kv_head, 0, row), _total(r, s, kv_head, 1, row))


@helper
def _segment_of_item(r, item):
    """The segment with an item of work."""
    index = 0
    while index + 1 < r[SEGMENTS_COUNT] and item >= segment_at(r, index + 1)[FIRST_ITEM]:
        index += 1
    return segment_at(r, index)


@helper
def _attend_to_span(
    r, s, kv_head, count, first_row, last_row, span, totals, scores, weights, sums, scoring, mixing
):  # fmt: skip
    """Adds the values of a span to the totals of some rows."""
    inputs, height = r[INPUTS], r[HEIGHT]
    queries = r[QUERIES] + 4 * inputs * (kv_head * r[QUERY_ROOM] + s[FIRST_QUERY])
    begin, end = seen_by(r, s, first_row, last_row, count)
    first_position = (s[FIRST_SPAN] + span) * SPAN
    begin, end = max(begin, first_position), min(end, first_position + SPAN)
    for part in range(begin // PART * PART, end, PART):
        for row in range(first_row, last_row, height):
            used = min(row + height, last_row)
            own_begin, own_end = seen_by(r, s, row, used, count)
            own_begin, own_end = max(own_begin, begin), min(own_end, end, part + PART)
            if own_begin >= own_end:
                continue
            tiles, skipped = -(-(own_end - part) // TILE), max(0, own_begin - part) // PAGE * (PAGE // TILE)
            for tile in range(skipped, tiles, PAGE // TILE):
                page = page_at(r, s, part + tile * TILE)
                set_product(scoring, used - row, inputs, queries + 4 * inputs * row, page + kv_head * r[KEY_BYTES])
                set_result(scoring, scores + 4 * TILE * tile)
                call(r[PRODUCT], 0, min(PAGE // TILE, tiles - tile), scoring)
            size = pack_height(used - row, height)
            _weigh(r, s, scores, weights, totals, row, used, count, size, part, begin, end, tiles * TILE)
            for tile in range(skipped, tiles, PAGE // TILE):
                page = page_at(r, s, part + tile * TILE)
                inputs_here = TILE * min(PAGE // TILE, tiles - tile)
                set_product(
                    mixing, used - row, inputs_here, weights + 4 * size * tile * TILE,
                    page + r[VALUES] + kv_head * r[VALUE_BYTES],
                )  # fmt: skip
                _mix(r, totals, row, used, sums, mixing)


@helper
def _mix(r, totals, row, used, sums, mixing):
    """Adds the weighted values of a page to the totals of the rows of a pack."""
    tiles = dim_tiles(r)
    for tile in range(0, tiles, _TILES):
        some = min(_TILES, tiles - tile)
        set_result(mixing, sums - 4 * TILE * tile)  # where the first tile's would be, if this one's are here
        call(r[PRODUCT], tile, tile + some, mixing)
        for lane in range(used - row):
            total = array_at(totals + (row + lane) * total_size(r) + 4 * TILE * tile, TILE * some, np.float32)
            own = array_at(sums + 4 * TILE * min(_TILES, tiles) * lane, TILE * some, np.float32)
            for i in range(TILE * some):
                total[i] += own[i]


@helper
def dim_tiles(r):
    return -(-r[DIM] // TILE)


@helper
def prepare_product(address, result_step, tile_bytes):
    """The arguments of a product with a matrix in the cache, as far as they stay the same."""
    a = array_at(address, _ROOM, np.int64)
    a[:] = 0
    a[record.PLANES] = a[record.OPERANDS] = 1
    a[_OPERAND + record.OUT_STEP] = result_step
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
    return 4 * (dim_tiles(r) * TILE + EXTRA)


@helper
def totals_of(r, s, kv_head, place):
    """The address of the totals of a segment's rows of queries. place: of the span, where there are several."""
    places = s[SPANS] if r[SPLIT] != 0 else 2
    return r[TOTALS] + (s[FIRST_TOTAL] + (kv_head * places + place) * s[QUERY_PLACES]) * total_size(r)


@helper
def _total(r, s, kv_head, place, row):
    size = total_size(r)
    return array_at(totals_of(r, s, kv_head, place) + row * size, size // 4, np.float32)


@helper
def row_blocks(s):
    return -(-s[QUERY_PLACES] // ROWS_TOGETHER)


@helper
def seen_by(r, s, first_row, last_row, count):
    """The positions that some rows see, from the first of any up to the last; ``count`` rows have the same position."""
    first, last = s[START] + first_row // count, s[START] + (last_row - 1) // count
    return (max(0, first - r[WINDOW] + 1) if r[WINDOW] > 0 else 0), last + 1


@helper
def clear(totals, first_row, last_row, size):
    for row in range(first_row, last_row):
        total = array_at(totals + row * size, size // 4, np.float32)
        total[:] = 0
        total[len(total) - EXTRA] = -np.inf


@helper
def _weigh(r, s, scores, weights, totals, row, used, count, size, part, begin, end, positions):
    """Scores (size, PART) to weights (positions, size) of the values; totals so far shrink if scores are larger."""
    target = array_at(weights, positions * size, np.float32)
    target[:] = 0
    factor = np.float32(1) / np.sqrt(np.float32(r[DIM]))
    for lane in range(used - row):
        own = array_at(scores + 4 * PART * lane, positions, np.float32)
        total = array_at(totals + (row + lane) * total_size(r), total_size(r) // 4, np.float32)
        first, last = seen_by(r, s, row + lane, row + lane + 1, count)
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
def join(total, other):
    """Adds the total of some positions to that of others: the one with the larger score counts more."""
    most = len(total) - EXTRA
    if other[most] == -np.inf:  # of no position
        return
    largest = max(total[most], other[most])
    share, others_share = exponential(total[most] - largest), exponential(other[most] - largest)
    for i in range(most):
        total[i] = total[i] * share + other[i] * others_share
    total[most + 1] = total[most + 1] * share + other[most + 1] * others_share
    total[most] = largest


def combine(first, stop, address):
    """Spans' totals to attention's results, (rows, heads * dim)."""
    r = record_at(address)
    dim = r[DIM]
    for row in range(first, stop):
        s = own_segment(r, row)
        for kv_head in range(r[KV_HEADS]):
            first_head, count = own_heads(r, kv_head)
            for head in range(count):
                place = r[STATES] + 4 * dim * (row * r[HEADS] + first_head + head)
                total = _whole(r, s, kv_head, (row - s[FIRST_ROW]) * count + head)
                _divide(total, tensor(r, SINKS), first_head + head, array_at(place, dim, np.float32))


@helper
def _whole(r, s, kv_head, row):
    """The total of all spans."""
    total = _total(r, s, kv_head, 0, row)
    if r[SPLIT] != 0:
        for place in range(1, s[SPANS]):
            join(total, _total(r, s, kv_head, place, row))
    return total


@helper
def _divide(total, sinks, head, result):
    """A total by the weight of all positions, and of the head's sink, if there is one."""
    most = len(total) - EXTRA
    weight = total[most + 1]
    if sinks != 0:
        sink = number_of(sinks, head)
        largest = max(total[most], sink)  # exponentials of what is not positive alone do not overflow
        share = exponential(total[most] - largest)
        weight = weight * share + exponential(sink - largest)
        for i in range(most):
            total[i] *= share
    for i in range(len(result)):
        result[i] = total[i] / weight
