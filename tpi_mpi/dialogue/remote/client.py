"""The server's protocol, which is OpenAI's and a little more."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

from tpi_mpi.common.errors import TpiError, UserError
from tpi_mpi.dialogue.characters import printable
from tpi_mpi.dialogue.remote.events import Piece, pieces

# Seconds of silence after which a server counts as lost: while it computes, it says every ten that it is waiting.
_SILENCE = 120.0
# Seconds within which what needs no computation is answered.
_SOON = 10.0
# Bytes of an event's line and of any other reply, at most.
_LONGEST_LINE, _LONGEST_REPLY = 16 << 20, 1 << 20


@dataclass(frozen=True)
class Health:
    """ready: whether the server answers questions. status: a word. detail: a sentence, or empty."""

    ready: bool
    status: str
    detail: str = ""

    @property
    def hopeless(self) -> bool:
        """Whether it makes no sense to wait for the server."""
        return self.status in ("failed", "stopping")


class Client:
    """Asks one server, by a connection for each request.

    url: of the server, with or without the ``/v1`` of the protocol. key: the API key, or None.

    Every method raises TpiError if the server cannot be reached or fails, UserError if it refuses what was asked.
    """

    def __init__(self, url: str, key: str | None = None):
        self.url = url.rstrip("/").removesuffix("/v1")
        self._connection, self._host, self._port, self._path = _parts(self.url)
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def health(self) -> Health:
        """Whether the server is ready. One that has no word for it counts as ready."""
        with self._request("GET", "/health", timeout=_SOON) as response:
            said = _object(response.read(_LONGEST_REPLY))
            ready = response.status != 503
            status = str(said.get("status") or ("ready" if ready else "loading"))
            return Health(ready, printable(status), printable(str(said.get("detail") or "")))

    def model(self) -> str:
        """The name of the first model."""
        models = self._ask("/v1/models").get("data")
        try:
            return printable(str(models[0]["id"]))
        except (TypeError, LookupError):
            raise TpiError(f"the server {self.url} has no model") from None

    def machines(self) -> dict:
        """What the machines do now."""
        return self._ask("/machines")

    def answer(self, model: str, messages: Sequence[Mapping], settings: Mapping[str, float]) -> Iterator[Piece]:
        """The pieces of an answer, as they come. Closing the iterator stops the answer."""
        usage = {"stream": True, "stream_options": {"include_usage": True}}
        body = {"model": model, "messages": messages, **usage, **settings}
        with self._request("POST", "/v1/chat/completions", body) as response:
            self._check(response)
            yield from pieces(iter(lambda: response.readline(_LONGEST_LINE), b""))

    def _ask(self, path: str) -> dict:
        with self._request("GET", path, timeout=_SOON) as response:
            self._check(response)
            return _object(response.read(_LONGEST_REPLY))

    @contextmanager
    def _request(
        self, method: str, path: str, body: Mapping | None = None, timeout: float = _SILENCE
    ) -> Iterator[HTTPResponse]:
        content = None if body is None else json.dumps(body)
        with closing(self._connection(self._host, self._port, timeout=timeout)) as connection:
            try:
                connection.request(method, self._path + path, content, self._headers)
                response = connection.getresponse()
            except (OSError, HTTPException) as error:
                remedy = "start one with python -m tpi_mpi.serve, or name another with --url"
                raise TpiError(f"no server answers at {self.url} ({_cause(error)}); {remedy}") from None
            try:
                yield response
            except (OSError, HTTPException) as error:
                raise TpiError(f"the connection to {self.url} was lost ({_cause(error)})") from None
            finally:
                response.close()

    def _check(self, response: HTTPResponse) -> None:
        """Raises what the server says against a request, if anything."""
        if response.status == 200:
            return
        error = _object(response.read(_LONGEST_REPLY)).get("error")
        told = error.get("message") if isinstance(error, dict) else None
        message = printable(str(told or f"HTTP status {response.status}, {response.reason}"))
        if response.status == 401:
            remedy = "name a file that holds the right one with --api-key-file, or set TPI_MPI_API_KEY"
            raise UserError(f"the server {self.url} does not accept the API key ({message}); {remedy}")
        if response.status == 429:
            wait = printable(response.headers.get("Retry-After") or "some")
            raise TpiError(f"the server has too much to do ({message}); try again in {wait} seconds")
        if response.status < 500:
            raise UserError(f"the server refuses this: {message}")
        raise TpiError(f"the server cannot answer: {message}")


def _parts(url: str) -> tuple[type[HTTPConnection], str, int | None, str]:
    """The kind of connection to a URL, its host, port and path."""
    kinds = {"http": HTTPConnection, "https": HTTPSConnection}
    try:
        parts = urlsplit(url)
        kind, host, port = kinds[parts.scheme], parts.hostname, parts.port
    except (ValueError, KeyError):
        host = None
    if not host:
        raise UserError(f"--url is {url!r}; the address of a server is needed, as in http://127.0.0.1:8000")
    return kind, host, port, parts.path


def _object(content: bytes) -> dict:
    """The JSON object in a reply; an empty one if there is none."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _cause(error: Exception) -> str:
    return printable(str(getattr(error, "strerror", None) or error or type(error).__name__))
