"""Keeps an engine at work: starts it, and starts it again when it was lost."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from tpi_mpi.common.errors import TpiError, UserError, say
from tpi_mpi.common.options.programs import ServeOptions
from tpi_mpi.serving import messages
from tpi_mpi.serving.accounts import Accounts
from tpi_mpi.serving.desk import Desk
from tpi_mpi.serving.job import Job

# Seconds before a lost engine is started again: twice as long each time, up to a limit.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


class Status(str, Enum):
    """Of the engine. While it is loading or restarting, requests wait for it."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass
class Supervisor:
    """Has requests at a desk answered by one engine after another.

    status, detail: of the engine, and a sentence about it. restarts: engines that were started after the first.
    """

    options: ServeOptions
    desk: Desk
    accounts: Accounts
    status: Status = Status.LOADING
    detail: str = "the engine is loading"
    restarts: int = 0

    def __post_init__(self):
        self._lost_in_a_row = 0
        self._stopping = asyncio.Event()

    def drain(self) -> None:
        """Takes no more requests."""
        self._set(Status.STOPPING, "the server is stopping")
        self.desk.close(self.detail)

    def stop(self) -> None:
        """Has :meth:`run` end the engine, and return."""
        self.drain()
        self._stopping.set()

    async def run(self) -> None:
        """Returns once the engine was stopped. Raises TpiError if it cannot be started, or was lost too often."""
        try:
            while not self._stopping.is_set():
                status = await self._run_once()
                if not self._stopping.is_set():
                    await self._pause(status)
        except TpiError:
            self._set(Status.FAILED, "the engine cannot be started any more; the server is ending")
            raise
        finally:
            self.desk.refuse_all(self.detail)

    async def _run_once(self) -> int | None:
        """One engine from its start to its end, whose exit status it returns."""
        stopped = asyncio.ensure_future(self._stopping.wait())
        async with Job(self.options) as job:
            heard = asyncio.ensure_future(self._listen(job))
            try:
                await asyncio.wait({stopped, heard}, return_when=asyncio.FIRST_COMPLETED)
                if heard.done():
                    heard.result()
            except TpiError as error:
                say(str(error))
            finally:
                for task in (stopped, heard):
                    task.cancel()
                self.accounts.end()
                self._disconnect()
        return job.status

    def _disconnect(self) -> None:
        """Nothing more comes of what is under way: that is told at once, before the engine's end is waited for."""
        if self._stopping.is_set():
            self.desk.disconnect(self.detail)
            return
        self._set(Status.RESTARTING, "a rank of the engine was lost; it is being started again")
        self.desk.disconnect("the engine was lost while it computed this; try again")

    async def _listen(self, job: Job) -> None:
        async for message in job.messages():
            if message["kind"] == messages.READY:
                self._ready(job, message)
            self.accounts.take(message)
            ended = self.desk.ended
            self.desk.take(message)
            if self.desk.ended > ended:
                self._lost_in_a_row = 0

    def _ready(self, job: Job, message: Mapping) -> None:
        self._set(Status.READY, "")
        say(f"{self.options.ranks} ranks are ready after {message['load_s']:.1f} s")
        self.desk.connect(job.send, message["settings"]["sequences"])

    async def _pause(self, status: int | None) -> None:
        """Waits before the next start. Raises TpiError if there is to be none."""
        if not self.accounts.ready:
            kind = UserError if status == UserError.status else TpiError
            raise kind(f"the engine ended before it was ready, with exit status {status}; the reason stands above")
        self._lost_in_a_row += 1
        if self._lost_in_a_row > self.options.restarts:
            raise TpiError(f"the engine was lost {self._lost_in_a_row} times in a row; see --restarts")
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (self._lost_in_a_row - 1))
        say(f"the engine was lost; starting it again in {pause:.0f} s")
        self.restarts += 1
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), pause)

    def _set(self, status: Status, detail: str) -> None:
        if self.status is not Status.STOPPING:
            self.status, self.detail = status, detail
