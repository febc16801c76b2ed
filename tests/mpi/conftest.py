"""Fixtures of the tests that run on several ranks at once; tests/test_under_mpirun.py starts them.

Every rank runs every test. A rank whose test fails takes the others down, which would else wait for it for ever.
"""

import sys
import traceback
from pathlib import Path

import pytest

from tpi_mpi.comm.affinity import Cores
from tpi_mpi.comm.world import World


def pytest_addoption(parser):
    parser.addoption("--workshop", type=Path, help="directory prepared by tests/test_under_mpirun.py")


def pytest_exception_interact(node, call, report):
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    print(f"rank {comm.Get_rank()} of {comm.Get_size()} failed in {node.nodeid}", file=sys.__stderr__)
    traceback.print_exception(call.excinfo.value, file=sys.__stderr__)
    sys.__stderr__.flush()
    if comm.Get_size() > 1:
        comm.Abort(1)


@pytest.fixture(scope="session")
def world() -> World:
    from mpi4py import MPI

    return World(MPI.COMM_WORLD)


@pytest.fixture(scope="session")
def cores(world) -> Cores:
    return Cores(world)


@pytest.fixture(scope="session")
def run(world, cores) -> tuple[World, Cores]:
    """What an engine needs of the machine."""
    return world, cores


@pytest.fixture
def together(world):
    """Every rank has begun this test, and ends it with the others."""
    world.barrier()
    yield
    world.barrier()


@pytest.fixture(scope="session")
def workshop(request) -> Path:
    return request.config.getoption("--workshop")


@pytest.fixture(scope="session")
def slabs(workshop, world) -> Path:
    """NAME/even and NAME/uneven: slabs for as many ranks as there are."""
    return workshop / "slabs" / str(world.size)
