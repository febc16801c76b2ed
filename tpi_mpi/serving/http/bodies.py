"""What clients send: JSON objects, up to a limit, within some time."""

import asyncio
import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from tpi_mpi.common.json_object import shorten
from tpi_mpi.common.units import format_size
from tpi_mpi.serving.refusal import Refusal

MOST_BYTES = 8 << 20
# Bytes of all bodies that are coming in at once.
_MOST_AT_ONCE = 8 * MOST_BYTES
# Seconds in which a body must have come.
_PATIENCE = 60.0

Body = TypeVar("Body", bound=BaseModel)


class Bodies:
    """Receives the bodies of requests."""

    def __init__(self):
        self._held = 0  # bytes that have come of those that have not come to their end

    async def received(self, request: Request, kind: type[Body]) -> Body:
        """The body of a request. Raises Refusal if it is too long, comes too slowly, or is not of the kind.

        Its type must be said to be JSON: the pages of other sites cannot send that without being asked whether they
        may.
        """
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "the body must be JSON, with the header Content-Type: application/json")
        try:
            return _parsed(await asyncio.wait_for(self._read(request), _PATIENCE), kind)
        except asyncio.TimeoutError:
            raise Refusal(408, f"the body did not come within {_PATIENCE:.0f} s") from None
        except ClientDisconnect:
            raise Refusal(400, "the connection was closed in the middle of the body") from None

    async def _read(self, request: Request) -> bytes:
        pieces, size = [], 0
        try:
            async for piece in request.stream():
                size, self._held = size + len(piece), self._held + len(piece)
                if size > MOST_BYTES:
                    raise Refusal(413, f"the body has more than {format_size(MOST_BYTES)}, which is the most")
                if self._held > _MOST_AT_ONCE:
                    raise Refusal.unavailable("too much is being sent to the server at once; try again later", 1)
                pieces.append(piece)
            return b"".join(pieces)
        finally:
            self._held -= size


def _parsed(content: bytes, kind: type[Body]) -> Body:
    try:
        return kind.model_validate(json.loads(content))
    except ValidationError as error:
        raise _mistake(error) from None
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON: {error}") from None


def _mistake(error: ValidationError) -> Refusal:
    """The first thing that is wrong, in a sentence."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = shorten(first["loc"][0]).strip("'") if first["loc"] else "the body"
    if first["type"] == "missing":
        return Refusal(400, f"{place} is missing", parameter=place)
    return Refusal(400, f"{place} is {shorten(first['input'])}: {first['msg'].lower()}", parameter=place)
