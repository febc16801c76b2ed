"""Kinds of work: how many rows come at a time, and what must not depend on that."""

DECODE, PROMPT = "decode", "prompt"
"""Tokens one by one, or a few drafted ones; and many at once. Within each kind, a row's result is bitwise the same
whatever the other rows are, and however many."""
