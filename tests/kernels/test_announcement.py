"""Whoever waits for a compiler is told so, once; whoever does not is not."""

import os
import subprocess
import sys

import pytest
from kept import kept_code

SCRIPT = """
import sys
from operands import random_operand
from tpi_mpi.kernels.formats import Format, Tiled
from tpi_mpi.kernels.linear import compiling_announced, prepare

layouts = [Tiled(Format.of(dtype), 16, 128) for dtype in sys.argv[1:]]
with compiling_announced(lambda: print("compiling")):
    prepare(layouts, 2)
"""


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    kept_code(tmp_path, monkeypatch)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def run(*dtypes: str) -> str:
        command = [sys.executable, "-c", SCRIPT, *dtypes]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    return run


def test_each_process_that_compiles_says_so_once(prepare):
    assert prepare("float32", "float16") == "compiling\n"
    assert prepare("float16", "float32") == ""
    assert prepare("float32", "int8") == "compiling\n"  # one is kept, one is new
    assert prepare("int8") == ""
