"""What has been generated for one request."""

from functools import partial

from tpi_mpi.engine.request import Request, Token
from tpi_mpi.tokenizer.detokenizer import Detokenizer, StopStrings
from tpi_mpi.tokenizer.tokenizer import Tokenizer


class Completion:
    """What has been generated for one request: its tokens, its text up to a stop string, and why it ended.

    tokenizer: None where only token ids are wanted.
    marks: whether special tokens are part of the text, as they are spelled. An end-of-text token never is then.
    """

    def __init__(self, tokenizer: Tokenizer | None, request: Request, marks: bool = False):
        decode = partial(tokenizer.decode, marks=marks) if tokenizer else None
        self._stream = Detokenizer(decode, request.token_ids) if decode else None
        self._silent = request.eos_token_ids if marks else frozenset()
        self._stops = StopStrings(request.sampling.stop)
        self._pieces: list[str] = []
        self.tokens: list[Token] = []
        self.finish_reason: str | None = None

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def push(self, token: Token | None) -> str:
        """Adds a token; returns the text to show for it, which may be empty. None: the request was for no tokens."""
        if token is None:
            self.finish_reason = "length"
            return ""
        self.tokens.append(token)
        self.finish_reason = token.finish_reason
        spoken = self._stream and token.id not in self._silent
        return self._cut(self._stream.push(token.id) if spoken else "")

    def finish(self) -> str:
        """Returns the text that was still held back; for when no more tokens come."""
        piece = "" if self._stops.found or not self._stream else self._cut(self._stream.finish())
        rest = self._stops.finish()
        self._pieces.append(rest)
        return piece + rest

    def _cut(self, piece: str) -> str:
        piece = self._stops.push(piece)
        if self._stops.found:
            self.finish_reason = "stop"
        self._pieces.append(piece)
        return piece
