"""What the machine has left, and what this process takes."""

import pytest

from tpi_mpi.common import memory


def test_the_resident_size_grows_with_what_is_touched():
    before = memory.resident()
    ballast = bytearray(64 * 1024**2)
    ballast[::4096] = bytes(len(ballast[::4096]))
    assert memory.resident() - before > 60 * 1024**2
    assert memory.peak_rss() >= memory.resident() - 1024**2


@pytest.mark.parametrize("version", [1, 2])
def test_a_cgroups_limit_bounds_what_is_available(tmp_path, monkeypatch, version):
    limit, usage = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    )
    (tmp_path / limit).write_text(f"{300 * 1024**2}\n")
    (tmp_path / usage).write_text(f"{200 * 1024**2}\n")
    mapped = "mapped_file" if version == 1 else "file_mapped"
    stat = {"anon": 5, "inactive_file": 50 * 1024**2, "active_file": 20 * 1024**2, mapped: 20 * 1024**2}
    (tmp_path / "memory.stat").write_text("".join(f"{key} {value}\n" for key, value in stat.items()))
    monkeypatch.setattr(memory, "_cgroup_directories", lambda: [(tmp_path, limit, usage)])
    assert memory.available() == 150 * 1024**2
    assert memory.default_budget(1) <= 300 * 1024**2


def test_a_cgroup_without_a_limit_does_not_count(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1\n")
    monkeypatch.setattr(memory, "_cgroup_directories", lambda: [(tmp_path, "memory.max", "memory.current")])
    assert memory.available() > 100 * 1024**2
