"""The lines of a prompts file can be read twice, wherever they come from."""

import os
import subprocess
import sys
import threading

import pytest
from conftest import REPOSITORY

from tpi_mpi.common.errors import UserError
from tpi_mpi.offline.lines import Lines

CONTENT = b"one\n\ntwo\nthree without an end"


def test_a_file_is_read_twice_and_what_is_appended_meanwhile_is_not(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(CONTENT + b"\n")
    with Lines(str(path)) as lines:
        first = list(lines)
        assert (b"".join(first), lines.read, lines.nbytes) == (CONTENT + b"\n", len(CONTENT) + 1, len(CONTENT) + 1)
        with open(path, "ab") as file:
            file.write(b"four\n")
        assert list(lines) == first


def test_a_pipe_is_read_twice_too(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(CONTENT,))
    writer.start()
    with Lines(str(path)) as lines:
        assert list(lines) == list(lines) == CONTENT.splitlines(keepends=True)
        assert lines.origin == str(path)
    writer.join()


def test_standard_input_is_read_twice_too():
    program = (
        "from tpi_mpi.offline.lines import Lines; lines = Lines('-'); print(lines.origin, *lines, *lines, sep='|')"
    )
    command = [sys.executable, "-c", program]
    for _ in range(2):
        finished = subprocess.run(command, input=CONTENT, cwd=REPOSITORY, stdout=subprocess.PIPE, check=True)
        expected = "|".join(["standard input", *map(str, CONTENT.splitlines(keepends=True) * 2)])
        assert finished.stdout.decode().strip() == expected


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_cannot_be_read_is_named(tmp_path, name):
    with pytest.raises(UserError, match=r"prompts file .* cannot be read: "):
        Lines(str(tmp_path / name))
