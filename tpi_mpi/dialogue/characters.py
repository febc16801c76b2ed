"""What of a text may reach a terminal, which would obey the rest."""

import re

# All control characters but newline and tab; and halves of surrogate pairs, which cannot be encoded.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    """The text without characters that could begin an escape sequence or move the cursor."""
    return _UNSHOWN.sub("", text)
