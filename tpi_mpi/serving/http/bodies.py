"""What clients send: JSON objects, up to a limit, within some time."""

import asyncio
import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from tpi_mpi.common.units import format_size
from tpi_mpi.serving.refusal import Refusal

MOST_BYTES = 8 << 20
# Seconds in which a body must have come.
_PATIENCE = 60.0
# Characters of a wrong value that are worth repeating.
_SHOWN = 60

Body = TypeVar("Body", bound=BaseModel)


async def received(request: Request, kind: type[Body]) -> Body:
    """The body of a request. Raises Refusal if it is too long, comes too slowly, or is not of the kind.

    Its type must be said to be JSON: the pages of other sites cannot send that without being asked whether they may.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refusal(415, "the body must be JSON, with the header Content-Type: application/json")
    try:
        content = await asyncio.wait_for(_read(request), _PATIENCE)
    except asyncio.TimeoutError:
        raise Refusal(408, f"the body did not come within {_PATIENCE:.0f} s") from None
    except ClientDisconnect:
        raise Refusal(400, "the connection was closed in the middle of the body") from None
    try:
        return kind.model_validate(json.loads(content))
    except ValidationError as error:
        raise _mistake(error) from None
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is no JSON: {error}") from None


async def _read(request: Request) -> bytes:
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > MOST_BYTES:
            raise Refusal(413, f"the body has more than {format_size(MOST_BYTES)}, which is the most")
        pieces.append(piece)
    return b"".join(pieces)


def _mistake(error: ValidationError) -> Refusal:
    """The first thing that is wrong, in a sentence."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"])) or "the body"
    if first["type"] == "missing":
        return Refusal(400, f"{place} is missing", parameter=place)
    value = repr(first["input"])
    shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
    return Refusal(400, f"{place} is {shown}: {first['msg'].lower()}", parameter=place)
