"""Words for a checkpoint of random weights, so that a server of it can be talked to like any other."""

import json
from itertools import chain, product
from pathlib import Path
from string import ascii_letters

SPACE = "\u0120"  # in byte-level vocabularies
TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}assistant:"


def talking(checkpoint: Path, work: Path) -> Path:
    """A checkpoint that can chat: this one, if it has a chat template, or else a copy of it, by links, with words.

    A synthetic checkpoint has a tokenizer of single bytes, and most of its tokens stand for nothing. In the copy each
    of those stands for a word of one to three letters, and is what that word is made into again.
    """
    if (checkpoint / "tokenizer_config.json").exists():
        return checkpoint
    copy = work / "talking"
    copy.mkdir(parents=True, exist_ok=True)
    for path in checkpoint.iterdir():
        if path.name != "tokenizer.json" and not (copy / path.name).exists():
            (copy / path.name).symlink_to(path.resolve())
    size = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    add_words(tokenizer["model"], size)
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer))
    own = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    (copy / "tokenizer_config.json").write_text(json.dumps(own))
    return copy


def add_words(model: dict, size: int) -> None:
    """Gives all token ids below size that have none a word, which is made of a shorter one and a letter."""
    free = sorted(set(range(size)).difference(model["vocab"].values()))
    words = chain.from_iterable(product(ascii_letters, repeat=length) for length in (1, 2, 3))
    for id, letters in zip(free, words, strict=False):
        begun = SPACE + "".join(letters[:-1])
        model["vocab"][begun + letters[-1]] = id
        model["merges"].append([begun, letters[-1]])
