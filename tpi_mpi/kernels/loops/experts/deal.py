"""Rows dealt to the experts that were chosen for them, and the experts' results added up.

Each step is given the address of a record: :mod:`tpi_mpi.kernels.records.mixture`.
"""

import numpy as np

from tpi_mpi.kernels.loops.experts.router import mixture_at
from tpi_mpi.kernels.loops.jit import helper
from tpi_mpi.kernels.loops.memory import array_at
from tpi_mpi.kernels.loops.states import pack_height
from tpi_mpi.kernels.records.mixture import (
    CHOSEN,
    COLUMNS_TOGETHER,
    EXPERTS,
    FIRST_PAIRS,
    KEPT,
    KEPT_PLACES,
    NEXT_PAIRS,
    OUTPUT_STEP,
    PAIR_ROWS,
    PAIR_SHARES,
    RESULT,
    ROWS,
    RUN,
    RUN_ADDRESS,
    RUN_COUNT,
    RUN_PAIR,
    RUNS,
    SHARES,
    TOP_K,
    WANTED,
    WIDTH,
)
from tpi_mpi.kernels.table import MOST_ROWS


@helper
def places_of(rows):
    """Places for the results of rows, with those of the zeros that fill packs up, of whatever height."""
    rest = rows % MOST_ROWS
    return rows - rest + (pack_height(rest, MOST_ROWS) if rest > 0 else 0)


@helper
def first_pairs(m):
    return array_at(m[FIRST_PAIRS], m[EXPERTS] + 1, np.int64)


def deal(first, stop, address):
    """Makes the lists of pairs and of wanted experts. A single item."""
    m = mixture_at(address)
    _count(m)
    _list(m)
    runs = array_at(m[RUNS], 1, np.int64)
    wanted = array_at(m[WANTED], m[EXPERTS] + 1, np.int64)
    pairs, places = first_pairs(m), array_at(m[KEPT_PLACES], m[EXPERTS], np.int64)
    wanted[0] = runs[0] = place = 0
    for expert in range(m[EXPERTS]):
        count = pairs[expert + 1] - pairs[expert]
        if count > 0:
            wanted[0] += 1
            wanted[wanted[0]] = expert
            places[expert] = place
            if m[KEPT] != 0:
                add_run(m, pairs[expert], count, m[KEPT] + place * m[OUTPUT_STEP])
            place += places_of(count)


@helper
def _count(m):
    pairs = first_pairs(m)
    pairs[:] = 0
    chosen = array_at(m[CHOSEN], m[ROWS] * m[TOP_K], np.int64)
    for i in range(len(chosen)):
        pairs[chosen[i] + 1] += 1
    following = array_at(m[NEXT_PAIRS], m[EXPERTS], np.int64)
    for expert in range(m[EXPERTS]):
        following[expert] = pairs[expert]
        pairs[expert + 1] += pairs[expert]


@helper
def _list(m):
    count = m[ROWS] * m[TOP_K]
    chosen, shares = array_at(m[CHOSEN], count, np.int64), array_at(m[SHARES], count, np.float32)
    rows, own_shares = array_at(m[PAIR_ROWS], count, np.int64), array_at(m[PAIR_SHARES], count, np.float32)
    following = array_at(m[NEXT_PAIRS], m[EXPERTS], np.int64)
    for i in range(count):
        place = following[chosen[i]]
        following[chosen[i]] += 1
        rows[place], own_shares[place] = i // m[TOP_K], shares[i]


@helper
def add_run(m, pair, count, result):
    """Puts pairs among those that are to be added up."""
    runs = array_at(m[RUNS], 1, np.int64)
    run = array_at(m[RUNS] + 8 * (1 + RUN * runs[0]), RUN, np.int64)
    run[RUN_PAIR], run[RUN_COUNT], run[RUN_ADDRESS] = pair, count, result
    runs[0] += 1


def add_up(first, stop, address):
    """item: some columns. Adds the results of all runs to the rows that they are of, as much of each as its share."""
    m = mixture_at(address)
    count = m[ROWS] * m[TOP_K]
    rows, shares = array_at(m[PAIR_ROWS], count, np.int64), array_at(m[PAIR_SHARES], count, np.float32)
    begin = first * COLUMNS_TOGETHER
    size = min(stop * COLUMNS_TOGETHER, m[WIDTH]) - begin
    runs = array_at(m[RUNS], 1, np.int64)[0]
    for index in range(runs):
        run = array_at(m[RUNS] + 8 * (1 + RUN * index), RUN, np.int64)
        for i in range(run[RUN_COUNT]):
            pair = run[RUN_PAIR] + i
            total = array_at(m[RESULT] + 4 * (m[WIDTH] * rows[pair] + begin), size, np.float32)
            own = array_at(run[RUN_ADDRESS] + i * m[OUTPUT_STEP] + 4 * begin, size, np.float32)
            share = shares[pair]
            for column in range(size):
                total[column] += share * own[column]
