"""Who may come in."""

import hmac
from collections.abc import Sequence
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tpi_mpi.serving.refusal import Refusal

# What tells nothing of anybody's requests: the page itself, and whether there is a server.
_OPEN = ("/", "/health")
_HEADERS = {"WWW-Authenticate": "Bearer"}


class Access:
    """Lets in whoever has a key or, where none is needed on this machine alone, whoever asked for this machine.

    The latter, because a page of another site may have its own name lead here (DNS rebinding), and to the browser then
    counts as a page of this server's.

    keys: of clients; empty if none is needed. local: whether only this machine can reach the server.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], local: bool):
        self._app, self._local = app, local
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope["path"], Headers(scope=scope)) if scope["type"] == "http" else None
        if refusal:
            await JSONResponse(refusal.to_json(), refusal.status, headers=_HEADERS)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, path: str, headers: Headers) -> Refusal | None:
        if not self._keys:
            return None if not self._local or is_local(_name(headers.get("host", ""))) else _STRANGER
        if path in _OPEN or self._knows(headers.get("authorization", "")):
            return None
        return _NO_KEY

    def _knows(self, authorization: str) -> bool:
        scheme, _, key = authorization.partition(" ")
        own = key.strip().encode()
        # All are compared, each in a time that does not tell how much of it is right.
        found = [hmac.compare_digest(own, known) for known in self._keys]
        return scheme.lower() == "bearer" and any(found)


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def is_local(name: str) -> bool:
    """Whether a name or an address is that of this machine for itself."""
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name.lower() in ("localhost", "localhost.")


_STRANGER = Refusal(403, "this server listens to its own machine alone, and was asked for by another name")
_NO_KEY = Refusal(401, "an API key is needed, in the header Authorization: Bearer KEY", "authentication_error")
