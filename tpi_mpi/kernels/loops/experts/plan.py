"""The jobs that are done together: as many of the experts that are present as there is room for."""

import numpy as np

from tpi_mpi.kernels.loops.experts.deal import add_run, first_pairs, places_of
from tpi_mpi.kernels.loops.experts.parts import add_part, clear_groups, settle_groups
from tpi_mpi.kernels.loops.jit import helper
from tpi_mpi.kernels.loops.memory import array_at
from tpi_mpi.kernels.records import block, job, mixture, product
from tpi_mpi.kernels.records.mixture import PIECE

_LINE = 64


@helper
def plan(m):
    """Plans the next jobs of the mixture whose record this is."""
    clear_groups(m)
    if m[mixture.KEPT] == 0:
        array_at(m[mixture.RUNS], 1, np.int64)[0] = 0
    pairs, index, place, before = first_pairs(m), 0, 0, -1
    ordered, projected = m[mixture.ORDERED], m[mixture.PROJECTED]
    while m[mixture.NEXT_PRESENT] < m[mixture.PRESENTS_COUNT]:
        present = _present(m, m[mixture.NEXT_PRESENT])
        first = pairs[present[mixture.NUMBER]] + m[mixture.NEXT_ROW]
        left = pairs[present[mixture.NUMBER] + 1] - first
        rows = min(left, PIECE)
        if place > 0 and place + places_of(rows) > m[mixture.PLACES]:
            break
        if rows > 0:
            shared = m[mixture.ROWS] == 1 and present[mixture.TEMPLATE] == before
            at = _fill(m, index, present, first, rows, place, ordered, projected, shared)
            ordered += _ordered_bytes(at, rows)
            projected += places_of(rows) * (at[block.PRODUCTS_STEP] + at[block.SECOND_STEP])
            place += places_of(rows)
            index, before = index + 1, present[mixture.TEMPLATE]
        m[mixture.NEXT_ROW] += rows
        if rows == left:
            m[mixture.NEXT_PRESENT] += 1
            m[mixture.NEXT_ROW] = 0
    settle_groups(m)


@helper
def _present(m, index):
    return array_at(m[mixture.PRESENTS] + 8 * mixture.PRESENT * index, mixture.PRESENT, np.int64)


@helper
def _job(m, index):
    return array_at(m[mixture.JOBS] + 8 * job.JOB * index, job.JOB, np.int64)


@helper
def _fill(m, index, present, pair, rows, place, ordered, projected, shared):
    """Fills a job in, and adds its parts; returns it.

    pair: the first of its pairs. place: rows of results before its own. shared: whether its states are the same as
    those of the job before it, which orders them.
    """
    at = _job(m, index)
    template = array_at(m[mixture.TEMPLATES] + 8 * job.JOB * present[mixture.TEMPLATE], job.JOB, np.int64)
    for i in range(job.JOB):
        at[i] = template[i]
    address = m[mixture.JOBS] + 8 * job.JOB * index
    _fill_tensors(at, address, present[mixture.ADDRESS])
    _fill_states(m, at, pair, rows, place)
    at[block.PRODUCTS] = projected
    at[block.SECOND] = projected + places_of(rows) * at[block.PRODUCTS_STEP]
    at[block.RESULT] = _output(m, present[mixture.NUMBER], pair, place)
    at[block.FINAL_STEP] = m[mixture.OUTPUT_STEP]
    if m[mixture.KEPT] == 0:
        add_run(m, pair, rows, at[block.RESULT])
    for number in range(job.PRODUCTS):
        last = number == job.LAST
        before = _product(_job(m, index - 1), number)[product.ORDERED] if shared and not last else ordered
        _fill_product(at, address, number, rows, before)
    _add_parts(m, at, address, rows, shared)
    return at


@helper
def _fill_tensors(at, address, base):
    """Addresses of the expert's tensors, whose record begins at ``base``."""
    at[block.TABLE] = address + 8 * job.TENSORS
    for i in range(job.MATRICES):
        matrix, vector = job.MATRIX + i * product.MATRIX_ARGUMENTS, job.VECTOR + 2 * i
        at[matrix + product.WEIGHTS] += base
        at[matrix + product.SCALES] += base
        at[matrix + product.ZERO_POINTS] += base
        at[job.TENSORS + block.GATE + i] = address + 8 * matrix
        if at[vector + 1] != job.NONE:
            at[vector] += base
            at[job.TENSORS + block.GATE_BIAS + i] = address + 8 * vector


@helper
def _fill_states(m, at, pair, rows, place):
    """Where its rows are: a single one stays where it is."""
    step = 4 * m[mixture.WIDTH]
    at[job.PAIRS] = m[mixture.PAIR_ROWS] + 8 * pair
    at[block.ROWS], at[block.WIDTH], at[block.HIDDEN] = rows, m[mixture.WIDTH], m[mixture.STATES]
    if rows == 1:
        at[block.STATES] = m[mixture.STATES] + step * array_at(at[job.PAIRS], 1, np.int64)[0]
    else:
        at[block.STATES] = m[mixture.GATHERED] + step * place


@helper
def _output(m, expert, pair, place):
    """The address of the results."""
    if m[mixture.KEPT] == 0:
        return m[mixture.OUTPUTS] + place * m[mixture.OUTPUT_STEP]
    row = array_at(m[mixture.KEPT_PLACES], expert + 1, np.int64)[expert] + pair - first_pairs(m)[expert]
    return m[mixture.KEPT] + row * m[mixture.OUTPUT_STEP]


@helper
def _product(at, number):
    start = job.PRODUCT + number * job.PRODUCT_NUMBERS
    return at[start : start + job.PRODUCT_NUMBERS]


@helper
def _fill_product(at, address, number, rows, ordered):
    a = _product(at, number)
    if number == job.LAST:
        a[product.STATES], a[product.STATES_STEP] = at[block.PRODUCTS], at[block.PRODUCTS_STEP]
    else:
        a[product.STATES], a[product.STATES_STEP] = at[block.STATES], 4 * at[block.WIDTH]
    a[product.ROWS], a[product.TABLE] = rows, address
    of_states, of_steps, of_offsets = _sizes(a, places_of(rows))
    a[product.ORDERED] = ordered
    a[product.STEPS] = a[product.ORDERED] + of_states
    a[product.OFFSETS] = a[product.STEPS] + of_steps
    a[product.SUMS] = a[product.OFFSETS] + of_offsets
    for i in range(a[product.OPERANDS]):
        own = product.ARGUMENTS + i * product.OPERAND_ARGUMENTS
        slot = a[own + product.SLOT]
        out = at[block.PRODUCTS] if slot == block.GATE else at[block.SECOND] if slot == block.UP else at[block.RESULT]
        a[own + product.OUT] = out


@helper
def _sizes(a, places):
    """Bytes of the ordered states, of their steps (and sums), and of their offsets."""
    of_groups = 4 * a[product.GROUPS] * places
    return _aligned(a[job.STATES_BYTES] * places), _aligned(of_groups), _aligned(of_groups * a[product.PLANES])


@helper
def _aligned(size):
    return -(-size // _LINE) * _LINE


@helper
def _ordered_bytes(at, rows):
    """Of the products' states in order, one after the other in the same place."""
    most = 0
    for number in range(job.PRODUCTS):
        of_states, of_steps, of_offsets = _sizes(_product(at, number), places_of(rows))
        most = max(most, of_states + 2 * of_steps + of_offsets)
    return most


@helper
def _add_parts(m, at, address, rows, shared):
    """The parts that a job has in each step."""
    if rows > 1:
        add_part(m, job.GATHERING, m[mixture.GATHER], address, rows, 0)
    for number in range(job.PRODUCTS):
        a = _product(at, number)
        if a[job.TILES] > 0:
            own = address + 8 * (job.PRODUCT + number * job.PRODUCT_NUMBERS)
            step = job.ORDERING_LAST if number == job.LAST else job.ORDERING + 2 * number
            packs = -(-rows // a[product.HEIGHT])
            if number == job.LAST or not shared:
                add_part(m, step, a[job.ORDER], own, packs, 0)
            add_part(m, step + 1, a[job.MULTIPLY], own, a[job.TILES], a[job.TILE_BYTES] * packs)
    add_part(m, job.ACTIVATING, m[mixture.ACTIVATE], address, rows, 0)
    if at[job.TENSORS + block.DOWN_BIAS] != 0:
        add_part(m, job.BIASING, m[mixture.ADD_BIAS], address, rows, 0)
