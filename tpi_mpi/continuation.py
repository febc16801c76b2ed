"""What has been generated of one text."""

from dataclasses import dataclass

from tpi_mpi.engine import Request, Token
from tpi_mpi.prompts import Prompt
from tpi_mpi.text_stream import StopTexts, TextStream
from tpi_mpi.tokenizer import Tokenizer


@dataclass(frozen=True)
class Text:
    """One text to continue: as the user gave it, and as the engine takes it."""

    prompt: Prompt
    request: Request


class Continuation:
    """What has been generated of one text: token ids, text up to a stop text, and why it ended."""

    def __init__(self, tokenizer: Tokenizer | None, text: Text):
        self._source = text
        self._stream = TextStream(tokenizer.decode, text.request.token_ids) if tokenizer else None
        self._stops = StopTexts(text.request.sampling.stop)
        self._tokens: list[Token] = []
        self._pieces: list[str] = []
        self.finish_reason: str | None = None

    def push(self, token: Token) -> str:
        """Takes a token; returns the text to show for it."""
        self._tokens.append(token)
        self.finish_reason = token.finish_reason
        return self._cut(self._stream.push(token.id) if self._stream else "")

    def finish(self) -> str:
        """The last of the text, once no more tokens come."""
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

    def record(self, logprobs: bool) -> dict:
        prompt = self._source.prompt
        record: dict = {"id": prompt.id, "prompt": prompt.text}
        if prompt.token_ids is not None:
            record["prompt_token_ids"] = list(prompt.token_ids)
        record["text"] = "".join(self._pieces)
        record["token_ids"] = [token.id for token in self._tokens]
        record["finish_reason"] = self.finish_reason
        if logprobs:
            record["logprobs"] = [token.logprob for token in self._tokens]
        return record
