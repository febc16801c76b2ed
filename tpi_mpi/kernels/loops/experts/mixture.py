"""Rows on their way through experts: jobs, as many at a time as there is room for, step by step."""

import numpy as np

from tpi_mpi.kernels.loops.atomics import store
from tpi_mpi.kernels.loops.experts.parts import group_at
from tpi_mpi.kernels.loops.experts.plan import plan
from tpi_mpi.kernels.loops.experts.router import mixture_at
from tpi_mpi.kernels.loops.memory import array_at
from tpi_mpi.kernels.loops.pieces import add_vector
from tpi_mpi.kernels.loops.pool import do
from tpi_mpi.kernels.loops.rows import record_at, tensor
from tpi_mpi.kernels.records import block, job, mixture
from tpi_mpi.kernels.records.pool import BUSY


def add_experts(control, address):
    """Has the threads of a pool compute all experts that are present, for all of their rows."""
    m = mixture_at(address)
    blocks = -(-m[mixture.WIDTH] // mixture.COLUMNS_TOGETHER)
    store(control + BUSY, 1)
    while m[mixture.NEXT_PRESENT] < m[mixture.PRESENTS_COUNT]:
        plan(m)
        for step in range(job.STEPS):
            group = group_at(m, step)
            if group[job.ITEMS] > 0:
                place = m[mixture.GROUPS] + m[mixture.GROUP_BYTES] * step
                do(control, m[mixture.GROUPED], place, group[job.ITEMS], group[job.TOGETHER])
        if m[mixture.KEPT] == 0:
            do(control, m[mixture.SUM], address, blocks, 1)
    store(control + BUSY, 0)


def gather(first, stop, address):
    """Some rows of a job to where they follow each other."""
    r = record_at(address)
    rows, width = array_at(array_at(address, job.JOB, np.int64)[job.PAIRS], r[block.ROWS], np.int64), r[block.WIDTH]
    for i in range(first, stop):
        source = array_at(r[block.HIDDEN] + 4 * width * rows[i], width, np.float32)
        target = array_at(r[block.STATES] + 4 * width * i, width, np.float32)
        for column in range(width):
            target[column] = source[column]


def add_bias(first, stop, address):
    """The last product's bias to some rows of a job's results."""
    r = record_at(address)
    for i in range(first, stop):
        result = array_at(r[block.RESULT] + i * r[block.FINAL_STEP], r[block.WIDTH], np.float32)
        add_vector(result, tensor(r, block.DOWN_BIAS))
