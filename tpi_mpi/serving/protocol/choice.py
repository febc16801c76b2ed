"""One of the answers to a request, as it comes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tpi_mpi.engine.completion import Completion
from tpi_mpi.engine.request import Request, Score, Token
from tpi_mpi.serving import messages


@dataclass
class Delta:
    """What has come of a choice: text, its tokens, scores of its prompt if they were asked for, and why it ended.

    The text may lag behind the tokens, of which several can make one character.
    """

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, later: "Delta") -> None:
        """Adds what has come after it."""
        self.text += later.text
        self.tokens += later.tokens
        self.scores += later.scores
        self.finish_reason = later.finish_reason


@dataclass
class Choice:
    """index: among the answers. prompt: the number of its prompt. text: what it continues, as far as that is shown.

    started: whether anything was written of it. length: characters of the tokens whose log-probabilities were.
    """

    index: int
    prompt: int
    request: Request
    completion: Completion
    text: str = ""
    cached_tokens: int = 0
    started: bool = False
    length: int = 0

    def take(self, said: Iterable[Mapping]) -> Delta:
        """What the engine has said of it, one token after another."""
        delta = Delta()
        for own in said:
            if self.completion.finish_reason:
                break  # a stop string came before
            token = messages.token_of(own)
            self.cached_tokens = own["cached_tokens"]
            delta.scores += messages.scores_of(own)
            delta.text += self.completion.push(token)
            if token:
                delta.tokens.append(token)
        delta.finish_reason = self.completion.finish_reason
        if delta.finish_reason:
            delta.text += self.completion.finish()
        return delta
