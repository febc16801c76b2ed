"""A record, the line of the output file that says what became of one prompt."""

import json
from collections.abc import Sequence

from tpi_mpi.engine.completion import Completion
from tpi_mpi.engine.request import Score
from tpi_mpi.offline.prompts import Mistake, Prompt

START = b'{"id": '
"""How every line begins: this identifies one that was cut off while it was being written."""

_ERROR = "error"


def record_of(
    prompt: Prompt, completion: Completion, logprobs: bool, cached_tokens: int = 0, scores: Sequence[Score] = ()
) -> dict:
    """The record of a finished request.

    logprobs: whether the log-probabilities of its tokens are included.
    cached_tokens: how many of the prompt's tokens had been computed before. scores: of all of them but the first.
    """
    record: dict = {"id": prompt.id, "prompt": prompt.text}
    if prompt.token_ids is not None:
        record["prompt_token_ids"] = list(prompt.token_ids)
    record["text"] = completion.text
    record["token_ids"] = [token.id for token in completion.tokens]
    record["finish_reason"] = completion.finish_reason
    if logprobs:
        record["logprobs"] = [token.logprob for token in completion.tokens]
    record["cached_tokens"] = cached_tokens
    top = bool(prompt.sampling.top_logprobs)
    if top:
        record["top_logprobs"] = [token.top for token in completion.tokens]
    return record | (_scored(scores, top) if prompt.sampling.prompt_logprobs else {})


def _scored(scores: Sequence[Score], top: bool) -> dict:
    """What a record has to say of the prompt's tokens; the first one follows nothing, so it has no probability."""
    scored: dict = {"prompt_logprobs": [None, *(score.logprob for score in scores)]}
    if top:
        scored["prompt_top_logprobs"] = [None, *(score.top for score in scores)]
    return scored


def record_of_mistake(mistake: Mistake) -> dict:
    """The record of a line that cannot be done."""
    return {"id": mistake.id, "prompt": mistake.text, "finish_reason": _ERROR, "error": mistake.sentence}


def is_of_mistake(record: dict) -> bool:
    return record.get("finish_reason") == _ERROR


def line_of(record: dict) -> bytes:
    """A record as it is written. Halves of surrogate pairs, which are no UTF-8, become JSON's escapes."""
    return json.dumps(record, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
