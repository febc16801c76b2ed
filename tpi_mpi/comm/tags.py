"""The tags of all messages between two ranks, so that none is mistaken for another."""

from enum import IntEnum, auto


class Tag(IntEnum):
    """What a message carries."""

    PARTIAL = auto()  # of an allreduce, on its way to whoever adds it up
    SUM = auto()  # of an allreduce, on its way back
    STEP = auto()  # what rank 0 tells the others before each sweep
    PING = auto()
    PONG = auto()
    TURN = auto()  # of a rank whose link is measured
    STREAM = auto()  # what a link is measured with
    CHUNK = auto()  # of a slab
    HEARTBEAT = auto()
