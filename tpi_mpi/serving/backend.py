"""The engine of a server, on all ranks."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from queue import Empty, SimpleQueue

from tpi_mpi.comm.affinity import Cores
from tpi_mpi.comm.world import World
from tpi_mpi.common.errors import UserError
from tpi_mpi.common.memory import resident
from tpi_mpi.common.options.programs import BackendOptions
from tpi_mpi.engine.demand import Demand
from tpi_mpi.engine.engine import Engine
from tpi_mpi.engine.request import Token
from tpi_mpi.engine.schedule.sequence import Sequence
from tpi_mpi.serving import messages
from tpi_mpi.serving.channel import Channel
from tpi_mpi.weights.slabs.slab import Slab

# Seconds between two accounts of the ranks, at least; and from one line about a slow sweep to the next.
_ACCOUNTS, _PROGRESS = 2.0, 0.5


def answer(world: World, slab: Slab, cores: Cores, options: BackendOptions, began: float) -> None:
    """Answers requests until the server is gone; on all ranks together.

    began: when the program was started, by ``time.perf_counter``.
    """
    with world.agreed():
        channel = Channel.connect(options.socket) if world.is_root else None
    demand = Demand.of_many(options.longest, slab.config.context_length, options.machine.batch)
    with world.agreed():
        engine = Engine(world, cores, slab, options.machine, demand, shown=False)
    with engine:
        if channel:
            Backend(engine, channel, time.perf_counter() - began).run()
            engine.follow_to_the_end()
            channel.close()
        else:
            while engine.follow():
                account(engine)


def account(engine: Engine) -> list[dict] | None:
    """What every rank has used so far, and uses, on rank 0. Collective."""
    usage = engine.usage()
    streamed = len(engine.slab.resident) - usage.pinned_blocks
    beside = {"resident_bytes": resident(), "streamed_bytes": usage.streamed_bytes, "streamed_blocks": streamed}
    return engine.world.gather(usage.to_json() | beside)


class Backend:
    """Rank 0's part: between two sweeps, takes what the server says; after each, tells it what came of it.

    load: seconds from the program's start until the engine was ready.
    """

    def __init__(self, engine: Engine, channel: Channel, load: float):
        self._engine, self._leader, self._channel, self._load = engine, engine.leader, channel, load
        self._inbox: SimpleQueue[dict | None] = SimpleQueue()  # None once the server is gone
        self._sequences: dict[int, Sequence] = {}
        self._ids: dict[Sequence, int] = {}
        self._waiting: dict[int, Sequence] = {}
        self._next_account = 0.0
        self._stopped = False

    def run(self) -> None:
        """Continues requests until the server is gone."""
        for work in (self._listen, self._tell_progress):
            threading.Thread(target=work, name="server", daemon=True).start()
        try:
            self._channel.send(self._ready())
            while not self._stopped:
                for message in self._arrived():
                    self._take(message)
                if self._leader.busy and not self._stopped:
                    self._sweep()
                self._tell_account()
        except OSError:
            return  # the server is gone

    def _listen(self) -> None:
        """The listening thread."""
        try:
            for message in self._channel.receive():
                self._inbox.put(message)
        finally:
            self._inbox.put(None)

    def _tell_progress(self) -> None:
        """Another thread: tells how far a slow sweep is."""
        while not self._stopped:
            time.sleep(_PROGRESS)
            progress = self._engine.progress.now()
            if progress and progress.seconds >= _PROGRESS:
                with suppress(OSError):  # the server is gone, which the others notice
                    self._channel.send({"kind": messages.PROGRESS, "begun": self._begun(), **asdict(progress)})

    def _ready(self) -> dict:
        room = self._engine.room
        own = {"kind": messages.READY, "longest": room.longest, "load_s": round(self._load, 3)}
        return own | {"settings": vars(self._engine.settings())}

    def _arrived(self) -> Iterator[dict | None]:
        """What has come. While there is nothing else to do, waits for it, until the next account is due."""
        if not self._leader.busy:
            try:
                yield self._inbox.get(timeout=max(0.0, self._next_account - time.monotonic()))
            except Empty:
                return
        while not self._inbox.empty():
            yield self._inbox.get()

    def _take(self, message: dict | None) -> None:
        if message is None:
            self._stopped = True
            return
        match message["kind"]:
            case messages.SUBMIT:
                self._submit(message)
            case messages.CANCEL if message["id"] in self._sequences:
                self._leader.cancel(self._sequences[message["id"]])
                self._forget(message["id"])

    def _submit(self, message: dict) -> None:
        id = message["id"]
        try:
            sequence = self._leader.submit(messages.submitted(message))
        except UserError as error:
            self._channel.send({"kind": messages.REFUSED, "id": id, "sentence": str(error)})
            return
        self._sequences[id], self._ids[sequence] = sequence, id
        self._waiting[id] = sequence

    def _sweep(self) -> None:
        events, begun = self._leader.step(), self._begun()
        for id in begun:
            del self._waiting[id]
        said = [own for event in events for own in self._said(*event)]
        self._channel.send({"kind": messages.TOKENS, "begun": begun, "said": said})

    def _begun(self) -> list[int]:
        """The requests whose turn has come, as far as the server may not know of it. For any thread to ask."""
        waiting = list(self._waiting.items())
        return [id for id, sequence in waiting if sequence.slot is not None or sequence.ended]

    def _said(self, sequence: Sequence, token: Token | None) -> Iterator[dict]:
        id = self._ids.get(sequence)
        if id is None:
            return
        scores, sequence.prompt_scores = sequence.prompt_scores, []  # told once, with the first token
        yield messages.said(id, token, sequence.cached_tokens, scores)
        if token is None or token.finish_reason:
            self._forget(id)

    def _forget(self, id: int) -> None:
        del self._ids[self._sequences.pop(id)]
        self._waiting.pop(id, None)

    def _tell_account(self) -> None:
        """Tells the server what all ranks do, if it is time for that: no rank may be in a sweep."""
        if self._stopped or time.monotonic() < self._next_account:
            return
        self._engine.follow()
        ranks = account(self._engine)
        done = self._leader.throughput
        throughput = done.to_json() | {"requests": done.requests, "tokens": done.tokens}
        self._channel.send({"kind": messages.RANKS, "ranks": ranks, "throughput": throughput})
        self._next_account = time.monotonic() + _ACCOUNTS
