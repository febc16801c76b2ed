"""A request for text, answered: as its tokens come, or at once."""

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from tpi_mpi.serving.desk import Desk
from tpi_mpi.serving.protocol.choice import Choice, Delta
from tpi_mpi.serving.protocol.order import Order
from tpi_mpi.serving.refusal import Refusal

# Seconds between two assurances that a stream is still there.
_PING = 10.0
_PINGED = b": waiting\n\n"
_STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # so that a proxy passes on each event as it comes
)

Heard = tuple[int, Mapping | Refusal]
"""What the engine says of a choice, by its index; or why nothing comes of it."""


class Exchange:
    """The response to one request. Its sequences end with it, also if the client goes before.

    order: what is asked for. ended: is given the exchange at its end.
    began, first: when it was asked, and when the first token came, by ``time.monotonic``. status: of HTTP.
    """

    def __init__(self, desk: Desk, order: Order, ended: Callable[["Exchange"], None]):
        self._desk, self.order, self._ended = desk, order, ended
        self._heard: asyncio.Queue[Heard | None] = asyncio.Queue()  # None when it is time to say that one is there
        self._running = {choice.index: choice for choice in order.choices}
        self._started = False
        self.began = time.monotonic()
        self.first: float | None = None
        self.status = 499  # the client has gone, unless it turns out otherwise
        hearers = [self._hearer(choice.index) for choice in order.choices]
        self._tickets = desk.submit([choice.request for choice in order.choices], hearers)

    def _hearer(self, index: int) -> Callable[[Mapping | Refusal], None]:
        return lambda heard: self._heard.put_nowait((index, heard))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self._answer(scope, receive, send))
        gone, ticking = asyncio.ensure_future(_gone(receive)), asyncio.ensure_future(self._tick())
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, gone, ticking):
                task.cancel()
            for ticket in self._tickets:
                self._desk.give_up(ticket)
            self._ended(self)
        if work.done() and not work.cancelled():
            work.result()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_PING)
            self._heard.put_nowait(None)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await (self._stream(send) if self.order.stream else self._whole(scope, receive, send))
            self.status = 200
        except Refusal as refusal:
            self.status = refusal.status
            if self._started:  # the status has been sent: it can only be told in the stream
                await self._send(send, _event(refusal.to_json()), more=False)
            else:
                await refused(refusal)(scope, receive, send)

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        deltas = [Delta() for _ in self.order.choices]
        while self._running:
            for choice, delta in self._taken(await self._next()):
                deltas[choice.index].add(delta)
        await JSONResponse(self.order.whole(deltas))(scope, receive, send)

    async def _stream(self, send: Send) -> None:
        while self._running:
            heard = await self._next()
            events = [event for pair in self._taken(heard) for event in self.order.chunks(*pair)]
            await self._say(send, b"".join(map(_event, events)) or (_PINGED if None in heard else b""))
        closing = b"".join(map(_event, self.order.closing()))
        await self._send(send, closing + b"data: [DONE]\n\n", more=False)

    async def _say(self, send: Send, body: bytes) -> None:
        """Sends a part of the stream: before the first one, the status and the opening."""
        if body and not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
            body = b"".join(map(_event, self.order.opening())) + body
        if body:
            await self._send(send, body)

    async def _send(self, send: Send, body: bytes, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": more})

    async def _next(self) -> list[Heard | None]:
        """All that has been heard; waits until there is anything."""
        heard = [await self._heard.get()]
        while not self._heard.empty():
            heard.append(self._heard.get_nowait())
        return heard

    def _taken(self, heard: Sequence[Heard | None]) -> list[tuple[Choice, Delta]]:
        """What has come of each choice. Raises Refusal if the engine has refused one, or was lost."""
        said: dict[int, list[Mapping]] = defaultdict(list)
        for index, own in filter(None, heard):
            if isinstance(own, Refusal):
                raise own
            said[index].append(own)
        if said and self.first is None:
            self.first = time.monotonic()
        return [self._take(self._running[index], own) for index, own in said.items() if index in self._running]

    def _take(self, choice: Choice, said: Sequence[Mapping]) -> tuple[Choice, Delta]:
        delta = choice.take(said)
        if delta.finish_reason:
            del self._running[choice.index]
            self._desk.give_up(self._tickets[choice.index])  # at a stop string, the engine would go on
        return choice, delta


async def _gone(receive: Receive) -> None:
    """Waits until the client has gone."""
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()


def _event(content: dict) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def refused(refusal: Refusal) -> JSONResponse:
    """The response that tells a refusal."""
    headers = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after else None
    return JSONResponse(refusal.to_json(), refusal.status, headers=headers)
