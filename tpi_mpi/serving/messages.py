"""What a server and its engine tell each other: JSON objects, told apart by their ``kind``.

server ── submit {id, token_ids, sampling, eos_token_ids}, cancel {id} ──▶ engine
       ◀── ready {longest, settings, ...}, tokens {begun, said}, refused {id, sentence} ── engine
           progress {begun, seconds, blocks, done, bytes, left_s}, ranks {ranks, throughput}
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.engine.request import Request, Score, Token

SUBMIT, CANCEL = "submit", "cancel"
READY, TOKENS, REFUSED, PROGRESS, RANKS = "ready", "tokens", "refused", "progress", "ranks"


def submit(id: int, request: Request) -> dict:
    """A request to continue. Stop strings stay with the server, which has the text."""
    sampling = {key: value for key, value in vars(request.sampling).items() if key != "stop"}
    return {
        "kind": SUBMIT,
        "id": id,
        "token_ids": request.token_ids,
        "sampling": sampling,
        "eos_token_ids": sorted(request.eos_token_ids),
    }


def submitted(message: Mapping) -> Request:
    """The request of a :func:`submit`. Raises UserError for values that are not allowed."""
    sampling = SamplingOptions().override(message["sampling"])
    return Request(tuple(message["token_ids"]), sampling, frozenset(message["eos_token_ids"]))


def said(id: int, token: Token | None, cached_tokens: int, scores: Sequence[Score]) -> dict:
    """A token of a request, or its end without one, among those of a sweep.

    cached_tokens: of its prompt, whose keys and values were there already. scores: of its prompt, beside the first.
    """
    own = {"id": id, "token": token and asdict(token), "cached_tokens": cached_tokens}
    return own | ({"scores": [asdict(score) for score in scores]} if scores else {})


def token_of(own: Mapping) -> Token | None:
    """The token of a :func:`said`."""
    return _with_top(Token, own["token"]) if own["token"] else None


def scores_of(own: Mapping) -> list[Score]:
    """The scores of a :func:`said`."""
    return [_with_top(Score, score) for score in own.get("scores", ())]


def _with_top(kind: type, values: Mapping) -> Token | Score:
    return kind(**{**values, "top": tuple((int(id), logprob) for id, logprob in values["top"])})
