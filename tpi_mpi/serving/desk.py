"""Where requests wait for the engine, and what is said of them goes to whoever asked."""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tpi_mpi.engine.request import Request
from tpi_mpi.serving import messages
from tpi_mpi.serving.refusal import Refusal

# Engines that may be lost while a request waits for one of them: it may be what brings them down before it begins.
_MOST_LOSSES = 2
# Requests whose durations are remembered, for a guess at how long another one has to wait; and seconds of that guess.
_REMEMBERED, _LEAST, _MOST = 32, 1, 600


@dataclass(eq=False)
class Ticket:
    """One sequence that somebody waits for.

    hear: is told what the engine says of it (:func:`tpi_mpi.serving.messages.said`), or a Refusal, which is the last.
    begun: when its turn came, by ``time.monotonic``; None while it waits. losses: engines that were lost meanwhile.
    """

    id: int
    request: Request
    hear: Callable[[Mapping | Refusal], None]
    begun: float | None = None
    losses: int = 0


@dataclass
class Desk:
    """The sequences that wait or are under way. All of this belongs to one thread, which never waits in here.

    Those that wait are kept when the engine is lost, and given to the next one, or the next two; those under way are
    told so.

    most: how many may wait.
    """

    most: int
    waiting: dict[int, Ticket] = field(default_factory=dict)
    running: dict[int, Ticket] = field(default_factory=dict)
    ended: int = 0

    def __post_init__(self):
        self._ids = itertools.count(1)
        self._send: Callable[[Mapping], None] | None = None
        self._slots = 1
        self._durations: list[float] = []
        self._closed: str | None = None
        self._idle = asyncio.Event()
        self._idle.set()

    def submit(self, requests: Sequence[Request], hearers: Sequence[Callable]) -> list[Ticket]:
        """Has requests continued, all of them or none. Raises Refusal if there are too many, or the desk is closed."""
        if self._closed:
            raise Refusal.unavailable(self._closed)
        free = max(0, self._slots - len(self.running)) if self._send else 0
        if len(self.waiting) + len(requests) > self.most + free:
            waiting = f"{len(self.waiting)} sequences wait already, of at most {self.most}"
            raise Refusal(429, f"{waiting}; try again later", "rate_limit_exceeded", retry_after=self._patience())
        tickets = [Ticket(next(self._ids), *pair) for pair in zip(requests, hearers, strict=True)]
        for ticket in tickets:
            self.waiting[ticket.id] = ticket
            self._tell(messages.submit(ticket.id, ticket.request))
        self._idle.clear()
        return tickets

    def give_up(self, ticket: Ticket) -> None:
        """Ends a sequence that nobody waits for any more, if it has not ended."""
        if self._forget(ticket.id):
            self._tell({"kind": messages.CANCEL, "id": ticket.id})

    def connect(self, send: Callable[[Mapping], None], slots: int) -> None:
        """Gives an engine, which continues so many sequences at once, all that wait."""
        self._send, self._slots = send, slots
        for ticket in self.waiting.values():
            self._tell(messages.submit(ticket.id, ticket.request))

    def disconnect(self, reason: str) -> None:
        """Tells those that are under way that the engine was lost, and those to whom that has happened too often."""
        if self._send:
            for ticket in self.waiting.values():
                ticket.losses += 1
        self._send = None
        lost = [ticket for ticket in self.waiting.values() if ticket.losses > _MOST_LOSSES]
        self._refuse([*self.running.values(), *lost], reason)

    def close(self, reason: str) -> None:
        """Takes no more requests."""
        self._closed = reason

    def refuse_all(self, reason: str) -> None:
        """Ends all requests, and takes no more."""
        self.close(reason)
        self._refuse([*self.waiting.values(), *self.running.values()], reason)

    async def idle(self) -> None:
        """Waits until nothing waits and nothing is under way."""
        await self._idle.wait()

    def take(self, message: Mapping) -> None:
        """Passes on what the engine says."""
        for id in message.get("begun", ()):
            self._begin(id)
        match message["kind"]:
            case messages.TOKENS:
                for own in message["said"]:
                    self._pass_on(own)
            case messages.REFUSED:
                if ticket := self._forget(message["id"]):
                    ticket.hear(Refusal(400, message["sentence"]))

    def _begin(self, id: int) -> None:
        if ticket := self.waiting.pop(id, None):
            ticket.begun = time.monotonic()
            self.running[id] = ticket

    def _pass_on(self, own: Mapping) -> None:
        ticket = self.running.get(own["id"])
        if ticket is None:
            return  # given up
        if own["token"] is None or own["token"]["finish_reason"]:
            self._forget(own["id"])
            self.ended += 1
            self._durations = [*self._durations[1 - _REMEMBERED :], time.monotonic() - ticket.begun]
        ticket.hear(own)

    def _forget(self, id: int) -> Ticket | None:
        ticket = self.waiting.pop(id, None) or self.running.pop(id, None)
        if not self.waiting and not self.running:
            self._idle.set()
        return ticket

    def _refuse(self, tickets: Sequence[Ticket], reason: str) -> None:
        for ticket in tickets:
            self._forget(ticket.id)
            ticket.hear(Refusal.unavailable(reason, _LEAST))

    def _tell(self, message: Mapping) -> None:
        if self._send:
            self._send(message)

    def _patience(self) -> int:
        """About how many seconds it takes until a place in the queue is free."""
        average = sum(self._durations) / len(self._durations) if self._durations else 0.0
        return round(min(_MOST, max(_LEAST, average / self._slots)))
