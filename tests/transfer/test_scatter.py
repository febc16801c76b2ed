"""Laws of the scatter: every machine gets its own slab bit for bit, whatever happens on the way, and only once."""

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import DEMO, REPOSITORY, environment, mpirun, run_module

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.common.units import MIB, format_size, parse_size
from tpi_mpi.weights.slabs.directory import DRAFT, slab_path
from tpi_mpi.weights.slabs.hdf5 import read_slab
from weights_tools.common.target_directory import JOURNAL, prepare_for_scatter
from weights_tools.synth import synth
from weights_tools.transfer import extents as extents_module
from weights_tools.transfer.extents import absent_from, extents_of

RANKS = 3
HOST = socket.gethostname()
SABOTAGE = str(REPOSITORY / "tests" / "sabotage_scatter.py")
BLOCK = "layers.3.feed_forward"


class Machines:
    """As many machines as ranks, for all that a rank can tell: each has a directory of its own as TARGET."""

    def __init__(self, directory: Path):
        self.directories = [directory / f"machine{rank}" for rank in range(RANKS)]
        for path in self.directories:
            path.mkdir()

    def target(self, rank: int) -> Path:
        return self.directories[rank] / "target"

    def slab(self, rank: int) -> Path:
        return slab_path(self.target(rank), rank)

    def draft(self, rank: int) -> Path:
        return slab_path(self.target(rank) / DRAFT, rank)

    def partial(self, rank: int) -> Path:
        return self.target(rank) / f".rank{rank:04d}.h5.partial"

    def command(self, *arguments) -> list[str]:
        words = [sys.executable, *map(str, arguments)]
        ranks = [["-np", "1", "--wdir", str(path), *words] for path in self.directories]
        return [mpirun(1)[0], *ranks[0], *(word for rank in ranks[1:] for word in (":", *rank))]

    def start(self, *arguments) -> subprocess.Popen:
        variables = {**environment(), "PYTHONPATH": str(REPOSITORY)}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(self.command(*arguments), env=variables, start_new_session=True, **pipes)

    def run(self, *arguments) -> "Finished":
        process = self.start(*arguments)
        stdout, stderr = process.communicate(timeout=60)
        return Finished(process.returncode, stdout, stderr)

    def scatter(self, slabs: Path, *options) -> "Finished":
        return self.run("-m", "weights_tools.scatter", slabs, "target", *options)

    def sabotaged(self, kind: str, rank: int, after: int, slabs: Path) -> "Finished":
        return self.run(SABOTAGE, kind, rank, after, slabs, "target")

    def fill(self, slabs: Path) -> None:
        """Puts everything in place."""
        for rank in range(RANKS):
            self.target(rank).mkdir()
            for path in slabs.iterdir():
                if path.suffix != ".h5" or path.name == self.slab(rank).name:
                    shutil.copy(path, self.target(rank))

    def process(self, rank: int) -> int | None:
        """The process that works in this machine's directory."""
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (path / "cwd").resolve() == self.directories[rank].resolve():
                    return int(path.name)
        return None

    def check(self, slabs: Path) -> None:
        """Every machine has its own slab and the small files, bit for bit, and nothing else."""
        wanted = files_of(slabs)
        for rank in range(RANKS):
            names = files_of(self.target(rank))
            assert names == {name for name in wanted if not name.endswith(".h5") or self.slab(rank).name in name}
            for name in names:
                assert (self.target(rank) / name).read_bytes() == (slabs / name).read_bytes(), name

    def times(self) -> dict[Path, int]:
        paths = (self.target(rank) / name for rank in range(RANKS) for name in files_of(self.target(rank)))
        return {path: path.stat().st_mtime_ns for path in paths}


class Finished:
    """What a run left behind. said: the lines of the program; sent, there: bytes."""

    def __init__(self, status: int, stdout: str, stderr: str):
        self.status, self.stdout, self.stderr = status, stdout, stderr
        self.said = re.findall(r"tpi_mpi: [^\r\n]*", stderr)  # perhaps behind a progress bar
        self.sent = self._size(r"; (\S+ \S+) sent in ")
        self.there = self._size(r"is resumed: (\S+ \S+) of ")

    def _size(self, pattern: str) -> int:
        found = re.search(pattern, self.stderr)
        return parse_size(found[1]) if found and not found[1].startswith("0 ") else 0

    def succeeded(self) -> "Finished":
        assert self.status == 0, self.stderr
        assert self.stdout == ""
        return self


@pytest.fixture
def machines(tmp_path) -> Machines:
    return Machines(tmp_path)


@pytest.fixture
def slabs(demo_slabs) -> Path:
    return demo_slabs(RANKS)


@pytest.fixture
def spoilable(slabs, tmp_path) -> Path:
    return shutil.copytree(slabs, tmp_path / "slabs")


@pytest.fixture(scope="module")
def other_split(tmp_path_factory) -> Path:
    """Slabs of the same checkpoint for as many ranks, split with other ratios."""
    target = tmp_path_factory.mktemp("other") / "slabs"
    run_module("weights_tools.split", DEMO, target, "--ranks", RANKS, "--ratios", "2,1,1", check=True)
    return target


@pytest.fixture(scope="module")
def drafted(tmp_path_factory) -> Path:
    """The same slabs, with a draft."""
    target = tmp_path_factory.mktemp("drafted") / "slabs"
    run_module("weights_tools.split", DEMO, target, "--ranks", RANKS, "--with-draft", "int4", check=True)
    return target


def files_of(directory: Path) -> set[str]:
    """The files in a directory and in that of a draft, by their paths in it."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def size_of(slabs: Path) -> int:
    return sum(path.stat().st_size for path in slabs.rglob("*.h5"))


def flip(path: Path, at: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 16]))


def middle_of(slab: Path, block: str = BLOCK) -> int:
    extent = read_slab(slab).blocks[block]
    return extent.offset + extent.nbytes // 2


def test_every_machine_gets_its_own_once_and_the_model_runs(machines, slabs):
    first = machines.scatter(slabs).succeeded()
    machines.check(slabs)
    assert first.sent == pytest.approx(size_of(slabs), rel=0.01)
    assert "scatter: 100%" in first.stderr
    before = machines.times()
    second = machines.scatter(slabs).succeeded()
    assert (second.sent, machines.times()) == (0, before)
    assert second.said[0] == f"tpi_mpi: {RANKS} of {RANKS} slabs are already in place"
    answer = machines.run("-m", "tpi_mpi.generate", "target", "--prompt", "Hello", "--chat")
    assert "tensor parallelism" in answer.stdout


def test_ranks_may_share_a_directory_even_that_of_the_slabs(slabs, spoilable, tmp_path):
    run_module("weights_tools.scatter", spoilable, tmp_path / "shared", ranks=RANKS, check=True)
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {path.name for path in slabs.iterdir()}
    for path in slabs.iterdir():
        assert (tmp_path / "shared" / path.name).read_bytes() == path.read_bytes()
    before = {path: path.stat().st_mtime_ns for path in spoilable.iterdir()}
    finished = run_module("weights_tools.scatter", spoilable, spoilable, ranks=RANKS, check=True)
    assert "; 0 B sent in " in finished.stderr
    assert {path: path.stat().st_mtime_ns for path in spoilable.iterdir()} == before


@pytest.mark.parametrize(("rank", "after"), [(2, 11), (0, 8)])
def test_a_killed_scatter_resumes(rank, after, machines, slabs):
    assert machines.sabotaged("kill", rank, after, slabs).status != 0
    assert not machines.slab(rank).exists()
    placed = sum(machines.slab(rank).stat().st_size for rank in range(RANKS) if machines.slab(rank).exists())
    finished = machines.scatter(slabs).succeeded()
    machines.check(slabs)
    assert finished.sent + finished.there + placed == pytest.approx(size_of(slabs), rel=0.01)
    assert finished.there > after * 1000


def test_what_an_interrupted_scatter_left_is_read_and_then_believed(machines, slabs):
    machines.fill(slabs)
    machines.slab(1).rename(machines.partial(1))
    assert machines.scatter(slabs).succeeded().sent == 0
    machines.check(slabs)

    machines.slab(1).rename(machines.partial(1))
    extents = extents_of(read_slab(slab_path(slabs, 1)))
    spoilt = (extents[0], extents[9], extents[-1])
    for extent in spoilt:
        flip(machines.partial(1), extent.stop - 1)
    with open(machines.partial(1), "ab") as file:
        file.write(b"more")
    finished = machines.scatter(slabs).succeeded()
    assert finished.sent == pytest.approx(sum(extent.nbytes for extent in spoilt), rel=0.01)
    machines.check(slabs)


def test_experts_arrive_too_and_a_killed_scatter_of_them_resumes(machines, checkpoints, tmp_path):
    slabs = tmp_path / "slabs"
    run_module("weights_tools.split", checkpoints["glm4-moe"], slabs, "--ranks", RANKS, check=True)
    assert machines.sabotaged("kill", 1, 20, slabs).status != 0
    assert not machines.slab(1).exists()
    finished = machines.scatter(slabs).succeeded()
    machines.check(slabs)
    assert finished.there > 0
    before = machines.times()
    flip(machines.slab(2), read_slab(machines.slab(2)).experts[1].extent(5).offset)
    repaired = machines.scatter(slabs, "--verify").succeeded()
    assert repaired.sent == pytest.approx(machines.slab(2).stat().st_size, rel=0.01)
    machines.check(slabs)
    assert {path for path, moved in machines.times().items() if moved != before[path]} == {machines.slab(2)}


def test_a_draft_goes_with_its_slabs(machines, slabs, drafted):
    finished = machines.scatter(drafted).succeeded()
    machines.check(drafted)
    assert finished.sent == pytest.approx(size_of(drafted), rel=0.01)
    assert f"{RANKS} slabs and {RANKS} of their draft are in place" in finished.said[-1]
    assert len(files_of(machines.target(1))) == 2 * (len(files_of(slabs)) - RANKS + 1)
    before = machines.times()
    again = machines.scatter(drafted).succeeded()
    assert again.said[0] == f"tpi_mpi: {2 * RANKS} of {2 * RANKS} slabs are already in place"
    assert (again.sent, machines.times()) == (0, before)
    flip(machines.draft(1), middle_of(machines.draft(1)))
    assert machines.scatter(drafted).succeeded().sent == 0
    repaired = machines.scatter(drafted, "--verify").succeeded()
    assert repaired.sent == pytest.approx(machines.draft(1).stat().st_size, rel=0.01)
    machines.check(drafted)


def test_a_draft_that_comes_later_is_sent_alone_and_one_that_is_gone_is_removed(machines, slabs, drafted):
    machines.scatter(slabs).succeeded()
    before = machines.times()
    later = machines.scatter(drafted).succeeded()
    assert later.sent == pytest.approx(size_of(drafted / DRAFT), rel=0.01)
    assert {path: moved for path, moved in machines.times().items() if path in before} == before
    machines.check(drafted)
    machines.scatter(slabs).succeeded()
    machines.check(slabs)
    assert not machines.draft(1).parent.exists()


@pytest.mark.parametrize(("rank", "after"), [(2, 11), (1, 28), (0, 35)])
def test_a_killed_scatter_of_slabs_with_a_draft_resumes(rank, after, machines, drafted):
    assert machines.sabotaged("kill", rank, after, drafted).status != 0
    assert not machines.slab(rank).exists()
    finished = machines.scatter(drafted).succeeded()
    assert finished.there > 0
    machines.check(drafted)


def test_room_is_looked_for_for_slabs_and_draft_together(machines, drafted):
    finished = machines.sabotaged("small", 1, 0, drafted)
    assert finished.status == 2
    assert f"the slabs need {format_size(size_of(drafted))}, but the disk of target has only" in finished.stderr


def test_ranks_that_share_a_directory_share_the_draft(drafted, slabs, tmp_path):
    run_module("weights_tools.scatter", drafted, tmp_path / "shared", ranks=RANKS, check=True)
    assert files_of(tmp_path / "shared") == files_of(drafted)
    run_module("weights_tools.scatter", tmp_path / "shared", tmp_path / "shared", ranks=RANKS, check=True)
    for name in files_of(drafted):
        assert (tmp_path / "shared" / name).read_bytes() == (drafted / name).read_bytes()
    run_module("weights_tools.scatter", slabs, tmp_path / "shared", ranks=RANKS, check=True)
    assert files_of(tmp_path / "shared") == files_of(slabs)


@pytest.mark.parametrize(("name", "words"), [
    ("manifest.json", "draft has no manifest.json; it holds no slabs, or their split was not completed"),
    ("rank0001.h5", "rank0001.h5 does not exist; split the checkpoint"),
])  # fmt: skip
def test_a_draft_that_is_not_complete_is_refused_before_anything_is_sent(name, words, machines, drafted, tmp_path):
    slabs = shutil.copytree(drafted, tmp_path / "slabs")
    (slabs / DRAFT / name).unlink()
    finished = machines.scatter(slabs)
    assert finished.status == 2
    assert words in finished.stderr
    assert not machines.target(0).exists()


def test_another_split_replaces_whole_and_partial_slabs(machines, slabs, other_split):
    machines.sabotaged("kill", 1, 9, other_split)
    machines.scatter(slabs).succeeded()
    machines.check(slabs)
    (machines.target(0) / "chat_template.jinja").write_text("of yet another model")
    machines.scatter(other_split).succeeded()
    machines.check(other_split)


def test_a_damaged_source_is_named_and_never_gets_into_its_place(machines, slabs, spoilable):
    at = middle_of(slab_path(spoilable, 1))
    flip(slab_path(spoilable, 1), at)
    finished = machines.scatter(spoilable)
    line = f"tpi_mpi: rank 1 on {HOST}: block {BLOCK} of slab {slab_path(spoilable, 1)} on rank 0 has checksum"
    assert finished.status == 1
    assert finished.said[-1].startswith(line)
    assert not machines.slab(1).exists()
    flip(slab_path(spoilable, 1), at)
    assert machines.scatter(spoilable).succeeded().there > 0
    machines.check(slabs)


def test_verify_finds_what_was_damaged_after_it_came(machines, slabs):
    machines.fill(slabs)
    flip(machines.slab(2), middle_of(machines.slab(2)))
    assert machines.scatter(slabs).succeeded().sent == 0  # its header is as it was
    finished = machines.scatter(slabs, "--verify").succeeded()
    assert finished.sent == pytest.approx(slab_path(slabs, 2).stat().st_size, rel=0.01)
    machines.check(slabs)


HUNG = {
    "hang-reading": (0, "no data of {slabs} has moved to or from the disk for 2 s"),
    "hang-writing": (1, "no data of target has moved to or from the disk for 2 s"),
    "hang-placing": (2, "no data of target has moved to or from the disk for 2 s"),
}


@pytest.mark.parametrize("kind", HUNG)
def test_a_disk_that_hangs_ends_all_in_time_and_is_named(kind, machines, slabs):
    rank, line = HUNG[kind]
    began = time.monotonic()
    finished = machines.run(SABOTAGE, kind, rank, 1 if kind != "hang-placing" else 0, slabs, "target", "--timeout", 3)
    assert time.monotonic() - began < 20
    assert finished.status != 0
    assert any(f"rank {rank} on {HOST}: {line.format(slabs=slabs)}" in said for said in finished.said), finished.stderr


FAULTS = {
    "small": (0, 2, "the slabs need {size}, but the disk of target has only 976.56 KiB left"),
    "full": (7, 2, "the disk filled up while {partial} was being written; free some space and scatter again"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_trouble_on_one_rank_ends_all_and_is_named(kind, machines, slabs):
    after, status, line = FAULTS[kind]
    finished = machines.sabotaged(kind, 1, after, slabs)
    assert finished.status == status
    assert "Traceback" not in finished.stderr
    line = line.format(partial=machines.partial(1), size=format_size(size_of(slabs)))
    expected = f"tpi_mpi: rank 1 on {HOST}: {line}"
    assert any(said.startswith(expected) for said in finished.said), finished.stderr
    assert ("scatter:" in finished.stderr) == (kind != "small")  # a disk without room is found before anything is sent


def test_a_message_that_was_altered_on_its_way_is_not_written(machines, slabs):
    finished = machines.sabotaged("message", 0, 20, slabs)
    assert finished.status == 1
    assert any("a message from rank 0 was altered on its way; scatter again" in line for line in finished.said)
    for rank in range(RANKS):
        assert (
            not machines.slab(rank).exists() or machines.slab(rank).read_bytes() == slab_path(slabs, rank).read_bytes()
        )


def test_a_slow_disk_holds_up_no_other(machines, slabs):
    process = machines.start(SABOTAGE, "slow", 1, 0, slabs, "target")
    deadline = time.monotonic() + 30
    while not machines.slab(2).exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not machines.slab(1).exists()
    process.communicate(timeout=60)
    machines.check(slabs)


def test_another_number_of_ranks_is_refused(slabs, tmp_path):
    finished = run_module("weights_tools.scatter", slabs, tmp_path / "target", ranks=2)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert "the slabs were split for 3 ranks, but 2 were started; use mpirun -np 3" in finished.stderr
    assert not (tmp_path / "target").exists()


def test_one_rank_is_a_copy(demo_slabs, tmp_path):
    run_module("weights_tools.scatter", demo_slabs(1), tmp_path / "target", check=True)
    for path in demo_slabs(1).iterdir():
        assert (tmp_path / "target" / path.name).read_bytes() == path.read_bytes()


def test_a_directory_of_other_files_is_refused(slabs, tmp_path):
    with pytest.raises(UserError, match="is not empty and holds no slabs; name another directory"):
        prepare_for_scatter(DEMO)
    with pytest.raises(UserError, match=r"config\.json cannot be used as a directory \(File exists\)"):
        prepare_for_scatter(DEMO / "config.json")
    (tmp_path / JOURNAL).touch()
    with pytest.raises(UserError, match="holds an interrupted split"):
        prepare_for_scatter(tmp_path)
    prepare_for_scatter(tmp_path / "new" / "directory")
    prepare_for_scatter(slabs)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path):
    theirs, link = tmp_path / "theirs", tmp_path / "link"
    theirs.mkdir()
    os.chown(theirs, 12345, -1)
    with pytest.raises(UserError, match=r"theirs belongs to another user \(number 12345\); name a directory"):
        prepare_for_scatter(theirs)
    (tmp_path / "mine").mkdir()
    link.symlink_to(tmp_path / "mine")
    prepare_for_scatter(link)
    os.chown(link, 12345, -1, follow_symlinks=False)  # and may lead elsewhere in a moment
    with pytest.raises(UserError, match=r"link belongs to another user"):
        prepare_for_scatter(link)


def test_a_directory_that_others_may_write_to_is_refused(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target").chmod(0o777)
    with pytest.raises(UserError, match=r"others may write to .*target \(mode 777\); chmod go-w it"):
        prepare_for_scatter(tmp_path / "target")
    (tmp_path / "target").chmod(0o755)
    prepare_for_scatter(tmp_path / "target")


def test_a_new_directory_is_ours_alone_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        prepare_for_scatter(tmp_path / "target")
    finally:
        os.umask(before)
    assert (tmp_path / "target").stat().st_mode & 0o022 == 0


def test_a_slab_that_the_disk_cannot_read_is_named(slabs, monkeypatch):
    def bad(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(extents_module, "checksum_of", bad)
    with pytest.raises(TpiError, match=r"rank0001\.h5 cannot be read: Input/output error; copy it again"):
        extents_of(read_slab(slab_path(slabs, 1)))


@pytest.mark.parametrize("name", ["llama", "llama-biases-tied", "qwen3", "gpt-oss"])
def test_extents_are_the_whole_file(name, checkpoints, tmp_path):
    run = ["--config", str(checkpoints[name] / "config.json"), "--ranks", "2", "--unique-layers", "1"]
    synth([str(tmp_path / "slabs"), *run])
    for rank in range(2):
        path = slab_path(tmp_path / "slabs", rank)
        extents = extents_of(read_slab(path))
        ends = [0, *(extent.stop for extent in extents)]
        assert [extent.start for extent in extents] == ends[:-1]
        assert ends[-1] == path.stat().st_size
        assert absent_from(path, extents) == ()
        for extent in extents:
            flip(path, extent.stop - 1)
            assert absent_from(path, extents) == (extent,)
            flip(path, extent.stop - 1)


def kill(machines: Machines, process: subprocess.Popen) -> None:
    os.kill(machines.process(2), signal.SIGKILL)


def interrupt(machines: Machines, process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does


def test_a_large_slab_may_be_interrupted_at_any_moment(tmp_path, machines):
    slabs = tmp_path / "slabs"
    shape = ["--like", "tinyllama-1.1b", "--layers", 2, "--ranks", RANKS]
    run_module("weights_tools.synth", slabs, *shape, check=True)
    there = 0
    for least, stop in ((10 * MIB, kill), (30 * MIB, interrupt)):
        process = machines.start(SABOTAGE, "slow", 2, 0, slabs, "target")
        while not (machines.partial(2).exists() and machines.partial(2).stat().st_size > least):
            assert process.poll() is None
            time.sleep(0.001)
        stop(machines, process)
        stderr = process.communicate(timeout=30)[1]
        assert process.returncode != 0
        assert "Traceback" not in stderr
        assert not machines.slab(2).exists()
        assert machines.partial(2).stat().st_size > there
        there = machines.partial(2).stat().st_size
    finished = machines.scatter(slabs).succeeded()
    assert 0 < finished.sent < size_of(slabs) - least / 2
    machines.check(slabs)
