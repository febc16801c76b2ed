"""Which experts are chosen for which rows; see :mod:`tpi_mpi.kernels.experts.choice`, which says the same plainly.

Each step is given the address of a record: :mod:`tpi_mpi.kernels.records.mixture`.
"""

import numpy as np

from tpi_mpi.kernels.experts.choice import ALMOST_NOTHING, PARTS
from tpi_mpi.kernels.loops.experts.exact import (
    ROOM,
    add_products,
    add_squares,
    exact_exponential,
    exact_sigmoid,
    total_of,
)
from tpi_mpi.kernels.loops.jit import helper
from tpi_mpi.kernels.loops.memory import array_at, stack
from tpi_mpi.kernels.loops.pieces import FLOAT32, number_of, scale
from tpi_mpi.kernels.records.mixture import (
    BIAS,
    CHOSEN,
    CORRECTION,
    EPS,
    EXPERTS,
    EXPERTS_TOGETHER,
    HIDDEN,
    LOGITS,
    NORM,
    NORMALISED,
    RECORD,
    ROUTER,
    ROWS,
    ROWS_TOGETHER,
    SCALE,
    SCORING,
    SHARES,
    SIGMOID,
    SOFTMAX_OF_CHOSEN,
    STATES,
    TABLE,
    TOP_K,
    WIDTH,
)

# Room for states as float64, and for partial sums, counted in float32.
_STATES_ROOM, _PARTS_ROOM = 2 * ROOM * ROWS_TOGETHER, 2 * PARTS * EXPERTS_TOGETHER * ROWS_TOGETHER


@helper
def mixture_at(address):
    return array_at(address, RECORD, np.int64)


@helper
def _tensor(m, slot):
    """The address of a tensor's arguments; 0 where the router has none."""
    return array_at(m[TABLE], slot + 1, np.int64)[slot]


@helper
def _float(bits):
    """The float64 with these bits."""
    return np.int64(bits).view(np.float64)


def normalise_exactly(first, stop, address):
    """Hidden states to normalised ones, row by row."""
    m = mixture_at(address)
    width, norm = m[WIDTH], _tensor(m, NORM)
    parts = stack(_PARTS_ROOM)
    for row in range(first, stop):
        own = array_at(m[HIDDEN] + 4 * width * row, width, np.float32)
        result = array_at(m[STATES] + 4 * width * row, width, np.float32)
        array_at(parts, PARTS, np.float64)[:] = 0
        add_squares(parts, (m[HIDDEN] + 4 * width * row, width))
        inverse = 1.0 / np.sqrt(total_of(parts) / np.float64(width) + _float(m[EPS]))
        scale(own, inverse, norm, result)


def find_logits(first, stop, address):
    """item: some rows and some experts; those of all rows with the same experts follow each other."""
    m = mixture_at(address)
    groups = -(-m[ROWS] // ROWS_TOGETHER)
    wide, parts = stack(_STATES_ROOM), stack(_PARTS_ROOM)
    for item in range(first, stop):
        row, expert = item % groups * ROWS_TOGETHER, item // groups * EXPERTS_TOGETHER
        rows, experts = min(ROWS_TOGETHER, m[ROWS] - row), min(EXPERTS_TOGETHER, m[EXPERTS] - expert)
        _multiply(m, row, rows, expert, experts, wide, parts)
        for i in range(rows):
            logits = array_at(m[LOGITS] + 8 * (m[EXPERTS] * (row + i) + expert), experts, np.float64)
            for e in range(experts):
                logits[e] = total_of(parts + 8 * PARTS * (ROWS_TOGETHER * e + i))


@helper
def _multiply(m, row, rows, expert, experts, wide, parts):
    """Partial sums (experts, ROWS_TOGETHER, PARTS) of some rows with some experts."""
    width, router = m[WIDTH], array_at(_tensor(m, ROUTER), 2, np.int64)
    size = 4 if router[1] == FLOAT32 else 2
    array_at(parts, PARTS * EXPERTS_TOGETHER * ROWS_TOGETHER, np.float64)[:] = 0
    for start in range(0, width, ROOM):
        count = min(ROOM, width - start)
        for i in range(rows):
            _widen(m[STATES] + 4 * (width * (row + i) + start), wide + 8 * ROOM * i, count)
        for e in range(experts):
            weights = router[0] + size * (width * (expert + e) + start)
            add_products(parts + 8 * PARTS * ROWS_TOGETHER * e, wide, rows, weights, count, router[1])


@helper
def _widen(states, wide, count):
    source, target = array_at(states, count, np.float32), array_at(wide, count, np.float64)
    for i in range(count):
        target[i] = source[i]


def choose(first, stop, address):
    """Logits to chosen experts and their shares, row by row. The logits are lost."""
    m = mixture_at(address)
    count, most = m[EXPERTS], m[TOP_K]
    for row in range(first, stop):
        scores = array_at(m[LOGITS] + 8 * count * row, count, np.float64)
        chosen = array_at(m[CHOSEN] + 8 * most * row, most, np.int64)
        shares = array_at(m[SHARES] + 4 * most * row, most, np.float32)
        _score(m, scores)
        _choose(scores, _tensor(m, CORRECTION), chosen)
        _share(m, scores, chosen, shares)


@helper
def _score(m, scores):
    """Logits to what the choice is made by."""
    bias = _tensor(m, BIAS)
    if bias != 0:
        for i in range(len(scores)):
            scores[i] += np.float64(number_of(bias, i))
    if m[SCORING] == SIGMOID:
        for i in range(len(scores)):
            scores[i] = exact_sigmoid(scores[i])


@helper
def _choose(scores, correction, chosen):
    """The numbers of the largest scores, ascending; of equal ones, the lower numbers."""
    most = len(chosen)
    for i in range(len(scores)):
        key, place = _key(scores, correction, i), min(i, most)
        while place > 0 and key > _key(scores, correction, chosen[place - 1]):
            if place < most:
                chosen[place] = chosen[place - 1]
            place -= 1
        if place < most:
            chosen[place] = i
    for i in range(1, most):  # by their numbers
        expert, place = chosen[i], i
        while place > 0 and chosen[place - 1] > expert:
            chosen[place] = chosen[place - 1]
            place -= 1
        chosen[place] = expert


@helper
def _key(scores, correction, expert):
    key = scores[expert]
    if correction != 0:
        key += np.float64(number_of(correction, expert))
    return key if key == key else -np.inf


@helper
def _share(m, scores, chosen, shares):
    """How much each chosen expert counts. The scores are lost."""
    if m[SCORING] != SIGMOID:
        _softmax(scores, chosen, m[SCORING] == SOFTMAX_OF_CHOSEN)
    total = 1.0
    if m[NORMALISED] != 0 and m[SCORING] != SOFTMAX_OF_CHOSEN:
        total = 0.0
        for i in range(len(chosen)):
            total += scores[chosen[i]]
        total += ALMOST_NOTHING if m[SCORING] == SIGMOID else 0.0
    for i in range(len(chosen)):
        shares[i] = np.float32(scores[chosen[i]] / total * _float(m[SCALE]))


@helper
def _softmax(scores, chosen, of_chosen):
    """Logits to their softmax, in their place; of the chosen ones alone, if so asked."""
    count = len(chosen) if of_chosen else len(scores)
    largest, total = -np.inf, 0.0
    for i in range(count):
        score = scores[chosen[i] if of_chosen else i]
        largest = score if score > largest else largest
    for i in range(count):
        place = chosen[i] if of_chosen else i
        scores[place] = exact_exponential(scores[place] - largest)
        total += scores[place]
    for i in range(count):
        scores[chosen[i] if of_chosen else i] /= total
