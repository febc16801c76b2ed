"""Log-probabilities, as either kind of answer has them."""

from collections.abc import Callable, Iterable, Sequence

from tpi_mpi.engine.request import Score, Token

Spell = Callable[[int], bytes]
"""The bytes that a token stands for."""


def text_of(spelled: bytes) -> str:
    """A token as text: as it is, or with its bytes' numbers where they are no text by themselves."""
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


def of_completion(spell: Spell, first: int | None, tokens: Sequence[Token | Score], offset: int) -> dict:
    """Log-probabilities of a completion.

    first: a token before the others that has none, that is the first of the prompt. offset: of the text before them.
    """
    head = [] if first is None else [text_of(spell(first))]
    texts = head + [text_of(spell(token.id)) for token in tokens]
    none = [None] * len(head)
    offsets = [offset]
    for text in texts[:-1]:
        offsets.append(offsets[-1] + len(text))
    top = [_top(spell, token) for token in tokens] if any(token.top for token in tokens) else None
    return {
        "tokens": texts,
        "token_logprobs": none + [token.logprob for token in tokens],
        "top_logprobs": top and none + top,
        "text_offset": offsets[: len(texts)],
    }


def _top(spell: Spell, token: Token | Score) -> dict[str, float]:
    """The most probable tokens, and this one. Of several that are spelled alike, the most probable."""
    found: dict[str, float] = {}
    for id, logprob in sorted((*token.top, (token.id, token.logprob)), key=lambda pair: -pair[1]):
        found.setdefault(text_of(spell(id)), logprob)
    return found


def of_chat(spell: Spell, tokens: Iterable[Token]) -> dict:
    """Log-probabilities of an answer in a conversation."""
    content = [
        _entry(spell, token.id, token.logprob) | {"top_logprobs": [_entry(spell, *pair) for pair in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _entry(spell: Spell, id: int, logprob: float) -> dict:
    spelled = spell(id)
    return {"token": text_of(spelled), "logprob": logprob, "bytes": list(spelled)}
