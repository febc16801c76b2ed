"""Files are as they were or complete."""

import os

import pytest

from tpi_mpi.common import files
from tpi_mpi.common.errors import UserError


def test_a_file_is_replaced_and_nothing_is_left_over(tmp_path):
    path = tmp_path / "report.json"
    files.replace_file(path, "first")
    files.replace_file(path, "zweite ü")
    assert path.read_text(encoding="utf-8") == "zweite ü"
    assert os.listdir(tmp_path) == ["report.json"]


def test_an_error_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    files.replace_file(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        files.replace_file(path, "new")
    assert path.read_text() == "old"


def test_a_link_goes_on_leading_to_its_file(tmp_path):
    (tmp_path / "link").symlink_to("file")
    files.replace_file(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "text"


def test_a_device_is_written_to_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.replace_file(pipe, "text")
    assert os.read(reader, 100) == b"text"
    assert pipe.is_fifo()
    os.close(reader)


@pytest.mark.parametrize("name", ["missing/report.json", "."])
def test_a_path_that_cannot_be_written_is_known_beforehand(tmp_path, name):
    files.check_writable(tmp_path / "report.json")
    with pytest.raises(UserError, match="cannot be written"):
        files.check_writable(tmp_path / name)
