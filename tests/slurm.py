"""A Slurm of the tests' own, on this machine: its daemons, and the jobs submitted to it."""

import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import machines
from conftest import REPOSITORY

TOOLS = ("slurmctld", "slurmd", "sbatch", "munged", "setpriv")
# The shortest time that Slurm lets a job wait that was put back into the queue.
_REQUEUE_SECONDS = 5

_CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire={requeue}
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1
KillWait=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
"""


def why_not() -> str | None:
    """Why no Slurm can be started here, or None."""
    if os.getuid() != 0:
        return "Slurm's daemons need root"
    path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    missing = [tool for tool in TOOLS if not shutil.which(tool, path=path)]
    return f"{', '.join(missing)} not found; apt-get install slurmctld slurmd slurm-client munge" if missing else None


class Slurm:
    """A cluster of two nodes, or of one where a machine cannot pretend to be two. A context manager.

    directory: of all its files; a short path, since a socket is there. scratch: a path that is another directory on
    each node, as the disk of a node is; ``disk`` says which.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.nodes = ["node1", "node2"] if machines.can_be_several() else [socket.gethostname()]
        self.scratch = directory / "scratch"

    def disk(self, node: str) -> Path:
        return self.directory / f"disk-{node}" if len(self.nodes) > 1 else self.scratch

    def __enter__(self) -> "Slurm":
        self._prepare()
        with ExitStack() as stack:
            munge = self.directory / "munge"
            files = [f"--{name}-file={munge}.{name}" for name in ("key", "pid", "log", "seed")]
            self._start(stack, "munged", "--force", "--foreground", f"--socket={munge}.socket", *files)
            self._start(stack, "slurmctld", "-D", "-i")
            for node in self.nodes:
                self._start(stack, *self._on(node), "slurmd", "-D", "-N", node)
            self._await_nodes()
            self._daemons = stack.pop_all()
        return self

    def __exit__(self, *exception) -> None:
        try:
            self.call("scancel", "--state=PENDING")
            self.call("scancel", "--signal=KILL", "--full", "--state=RUNNING")  # what slurmd started would outlive it
            await_that(lambda: not self.call("squeue", "--noheader"), 20)
        finally:
            self._daemons.close()

    def _prepare(self) -> None:
        for path in ("state", "scratch", *(f"spool-{node}" for node in self.nodes)):
            (self.directory / path).mkdir()
        for node in self.nodes:
            self.disk(node).mkdir(exist_ok=True)
        key = self.directory / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        ports = free_ports(1 + len(self.nodes))
        lines = _CONFIGURATION.format(
            host=socket.gethostname(), directory=self.directory, requeue=_REQUEUE_SECONDS, ports=ports
        )
        for node, port in zip(self.nodes, ports[1:], strict=True):
            lines += f"NodeName={node} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=4000\n"
        (self.directory / "slurm.conf").write_text(lines + "PartitionName=all Nodes=ALL Default=YES\n")

    def _on(self, node: str) -> list[str]:
        """What makes a command run on a node."""
        if len(self.nodes) == 1:
            return []
        return machines.as_machine(node, self.disk(node), self.scratch)

    def _start(self, stack: ExitStack, *command: str) -> None:
        settings = {"env": self.environment(), "cwd": self.directory, "stdin": subprocess.DEVNULL}
        with open(self.directory / "daemons.log", "ab") as log:
            # It ends with the tests even where they are killed.
            command = ("setpriv", "--pdeathsig", "TERM", *command)
            daemon = subprocess.Popen(command, stdout=log, stderr=log, **settings)
        stack.callback(_end, daemon)

    def _await_nodes(self) -> None:
        def all_idle() -> bool:
            states = self.call("sinfo", "--noheader", "--Node", "--format=%T", check=False).split()
            return states == ["idle"] * len(self.nodes)

        try:
            await_that(all_idle, 30)
        except TimeoutError:
            log = (self.directory / "daemons.log").read_text()
            raise RuntimeError(f"Slurm did not start:\n{log[-4000:]}") from None

    def environment(self, **variables: str) -> dict[str, str]:
        """What commands of this cluster need."""
        path = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
        settings = {"PATH": path, "SLURM_CONF": f"{self.directory}/slurm.conf"}
        return {**os.environ, **machines.AS_ROOT, **settings, **variables}

    def call(self, *command: str, check: bool = True, **variables: str) -> str:
        finished = subprocess.run(
            command, env=self.environment(**variables), cwd=REPOSITORY, capture_output=True, text=True, timeout=60
        )
        assert not check or finished.returncode == 0, finished.stderr
        return finished.stdout

    def submit(self, *arguments: str, **variables: str) -> "SlurmJob":
        """Submits a recipe as a user would: arguments of sbatch, and variables of the environment."""
        log = self.directory / f"{time.monotonic_ns()}.log"
        number = self.call("sbatch", "--parsable", f"--output={log}", *arguments, **variables).strip()
        return SlurmJob(self, number, log)


class SlurmJob:
    """A job that was submitted. log: the file with its output."""

    def __init__(self, slurm: Slurm, number: str, log: Path):
        self.slurm, self.number, self.log = slurm, number, log

    def shown(self, key: str) -> str:
        """A value of what Slurm tells about the job, as JobState or ExitCode."""
        fields = self.slurm.call("scontrol", "show", "job", self.number).split()
        return dict(field.split("=", 1) for field in fields if "=" in field)[key]

    def ended(self, seconds: float = 60) -> str:
        """Waits until the job has ended for good, and returns its state."""
        await_that(lambda: self.shown("JobState") in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT"), seconds, self)
        return self.shown("JobState")

    def __str__(self) -> str:
        return self.log.read_text() if self.log.exists() else "the job has not begun"


def await_that(condition, seconds: float, what: object = "") -> None:
    """Waits until a condition holds. Raises TimeoutError, with ``what`` there is to say, where it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.1)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _end(daemon: subprocess.Popen) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
