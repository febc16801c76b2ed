"""What of a text may reach a terminal, which would obey the rest; and how wide it is there."""

import re
import unicodedata

# All control characters but newline and tab; and halves of surrogate pairs, which cannot be encoded.
_UNSHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

# Columns from one tab stop to the next.
_TAB = 8


def printable(text: str) -> str:
    """The text without characters that could begin an escape sequence or move the cursor."""
    return _UNSHOWN.sub("", text)


def column_after(text: str, column: int, width: int) -> int:
    """Where the cursor is once the text has been written from a column on; ``width`` where the line is just full.

    width: of the terminal, in columns.
    """
    for character in text:
        if character == "\n":
            column = 0
        elif character == "\t":
            column = max(column, min(column // _TAB * _TAB + _TAB, width - 1))
        elif columns := _columns(character):
            column = column + columns if column + columns <= width else columns
    return column


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):  # joins the one before
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
