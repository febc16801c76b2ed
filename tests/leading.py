"""A single request, for tests that need no more."""

from tpi_mpi.engine.leader import Leader
from tpi_mpi.engine.request import Request, Token


def tokens_of(leader: Leader, request: Request) -> list[Token]:
    """The tokens that continue it."""
    sequence, tokens = leader.submit(request), []
    while not sequence.ended:
        tokens += [token for owner, token in leader.step() if owner is sequence]
    return tokens
