"""The arguments of reading memory."""

PIECE = 1 << 17
"""Words of 64 bits that a thread claims at a time: 1 MiB."""

(
    WORDS,  # address
    COUNT,  # of the words
    TOTAL,  # the sum of those that have been read
    ARGUMENTS,
) = range(4)
"""The places of the arguments, and how many there are."""
