"""Treats a server badly for some minutes, kills its ranks meanwhile, and checks that every request ends as it should.

    python jobs/comparison/server_stress.py SLABS WORK --ranks 2 [--clients 32] [--seconds 600] [--kill-every 60]

Each client does one thing after another, at random, from a seed: mischief.py says what. Meanwhile a rank that is chosen
at random is killed every so often. Every request must end within --limit seconds, in an answer that is complete or an
error that says so. In the end nothing may be running or waiting, and SIGTERM must end the server with status 0.

Prints one JSON object: how many requests of each kind had each outcome; the longest; how much memory the server and
its ranks have (the ranks' processes change when one was killed), and how many descriptors the server has open, both
while nobody asks anything, at the end and before, after half a minute in which no rank was killed: by then the server
has as much memory as it takes. And what was wrong, which is also told as it happens: then the status is 1.

Needs Linux, and nothing but this project. The server's words are in WORK/server.log.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random

from mischief import Client, Wrong
from served import Server, as_root, get, ours

WARM_UP = 30.0  # seconds before anything is measured
SETTLING, ENDING = 60.0, 20.0  # seconds until nothing is under way, and until the server has ended
RESTARTS = 1000  # in a row: more than there are kills
SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slabs", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--kill-every", type=float, default=60, metavar="SECONDS")
    parser.add_argument("--limit", type=float, default=120, metavar="SECONDS", help="of a request (default: 120)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    as_root()
    options.work.mkdir(parents=True, exist_ok=True)
    log = options.work / "server.log"
    with ours(options.slabs, options.ranks, log, "--timeout", 10, "--restarts", RESTARTS) as server:
        report = Stress(server, options).run()
    print(json.dumps(report, indent=2))
    return int(bool(report["wrong"]))


class Stress:
    """What is done to a server, and what came of it."""

    def __init__(self, server: Server, options: argparse.Namespace):
        self._server, self._options = server, options
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._counts: dict[str, Counter] = defaultdict(Counter)
        self._longest: dict[str, float] = defaultdict(float)
        self._wrong: list[str] = []
        self._kills = self._restarts = 0
        numbers = range(options.seed, options.seed + options.clients)
        self._clients = [partial(self._misbehave, Client(server.url, number, options.limit)) for number in numbers]

    def run(self) -> dict:
        self._ask(WARM_UP, self._clients)
        before = usage(self._server)
        self._ask(self._options.seconds, [*self._clients, self._kill])
        after = usage(self._server)
        ending = self._end()
        return {
            "counts": self._counts,
            "longest_s": self._longest,
            "kills": self._kills,
            "restarts": self._restarts,
            "before": before,
            "after": after,
            "ending_s": ending,
            "wrong": len(self._wrong),
            "first_wrong": self._wrong[:SHOWN],
        }

    def _ask(self, seconds: float, work: Sequence[Callable[[], None]]) -> None:
        """Does several things at once for so long, or until the server has ended."""
        self._over.clear()
        threads = [threading.Thread(target=each, daemon=True) for each in work]
        for thread in threads:
            thread.start()
        self._over.wait(seconds)
        self._over.set()
        for thread in threads:
            thread.join()
        self._settle()

    def _misbehave(self, client: Client) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            try:
                kind, outcome = client.act()
                with self._lock:
                    self._counts[kind][outcome] += 1
                    self._longest[kind] = max(self._longest[kind], time.monotonic() - began)
            except Wrong as error:
                self._complain(str(error))

    def _kill(self) -> None:
        random = Random(self._options.seed)
        while not self._over.wait(self._options.kill_every):
            if ranks := list(ranks_of(self._server)):
                with suppress(ProcessLookupError):  # it may have ended with another
                    os.kill(random.choice(ranks), signal.SIGKILL)
                    self._kills += 1

    def _complain(self, sentence: str) -> None:
        with self._lock:
            self._wrong.append(sentence)
        print(sentence[:2000], file=sys.stderr, flush=True)
        if self._server.process.poll() is not None:
            self._over.set()

    def _settle(self) -> None:
        """Waits until nothing is under way any more, and all ranks are ready. Raises SystemExit without a server."""
        deadline = time.monotonic() + SETTLING
        while True:
            if self._server.process.poll() is not None:
                raise SystemExit(f"the server has ended, with status {self._server.process.poll()}; its log says why")
            told = get(self._server.url, "/machines")
            self._restarts, state = told["restarts"], (told["status"], told["running"], told["waiting"])
            if state == ("ready", 0, 0) and len(list(ranks_of(self._server))) == self._options.ranks:
                return
            if time.monotonic() > deadline:
                self._complain("nobody asks any more, but the server is {}, {} running, {} waiting".format(*state))
                return
            time.sleep(0.1)

    def _end(self) -> float | None:
        """Seconds that the server took to end; None if it did not."""
        process, began = self._server.process, time.monotonic()
        process.send_signal(signal.SIGTERM)
        while process.poll() is None and time.monotonic() < began + ENDING:
            time.sleep(0.02)
        if process.poll() != 0:
            self._complain(f"told to end, the server has the status {process.poll()} after {ENDING:.0f} s")
            return None
        return time.monotonic() - began


def usage(server: Server) -> dict:
    """MiB that the server and its ranks have in memory, and the server's open descriptors."""
    descriptors = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
    ranks = sorted(map(resident, ranks_of(server)))
    return {"server_mib": resident(server.process.pid), "ranks_mib": ranks, "descriptors": descriptors}


def resident(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return round(int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024, 1)


def ranks_of(server: Server) -> Iterator[int]:
    """The processes of its ranks."""
    for process in descendants(server.process.pid):
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"tpi_mpi.backend" in words[:4]:
            yield process


def descendants(process: int) -> Iterator[int]:
    """All processes that descend from one."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return
    for child in map(int, children):
        yield child
        yield from descendants(child)


if __name__ == "__main__":
    sys.exit(main())
