"""The tags of all messages between two ranks, so that none is mistaken for another."""

from enum import IntEnum, auto


class Tag(IntEnum):
    """What a message carries."""

    PARTIAL = auto()  # of an allreduce, sent to the rank that adds it up
    SUM = auto()  # of an allreduce, sent back
    STEP = auto()  # header and hidden states from rank 0, before each sweep
    PING = auto()
    PONG = auto()
    TURN = auto()  # whether a rank's link is measured once more
    STREAM = auto()  # payload for measuring a link
    CHUNK = auto()  # part of a slab
    HEARTBEAT = auto()
