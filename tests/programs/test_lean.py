"""A rank imports nothing that it does not need: neither memory nor time are there for it."""

import subprocess
import sys

import pytest
from conftest import environment, mpirun

HEAVY = ("numba", "torch", "transformers", "scipy", "matplotlib", "safetensors", "llguidance")
SCRIPT = f"""
import runpy, sys
sys.argv = ["generate", *sys.argv[1:]]
try:
    runpy.run_module("tpi_mpi.generate", run_name="__main__")
finally:
    print("IMPORTED", *(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_rank_imports_neither_torch_nor_numba(demo_slabs, ranks):
    command = [sys.executable, "-c", SCRIPT, demo_slabs(ranks), "--prompt", "What is a slab?", "--max-new-tokens", "3"]
    command = [*mpirun(ranks if ranks > 1 else None), *map(str, command)]
    finished = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count("IMPORTED\n") == ranks, finished.stderr
