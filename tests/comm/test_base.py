"""The requests of an exchange: built once for a shape, and not freed while they are in use."""

from tpi_mpi.comm.allreduce.base import _MAX_SHAPES, Requests


class Request:
    """A persistent request, as far as it is freed."""

    def __init__(self, rows: int):
        self.rows, self.freed = rows, False

    def Free(self) -> None:  # noqa: N802 (MPI's name)
        self.freed = True


def test_the_shape_of_a_decoded_token_outlives_any_number_of_prompts():
    built = []

    def build(rows: int) -> tuple[list, ...]:
        built.append(rows)
        return ([Request(rows)],)

    requests = Requests(build)
    (token,) = requests.of(1)[0]
    for rows in range(2, 4 * _MAX_SHAPES):
        requests.of(rows)
        assert requests.of(1)[0] == [token]
    assert not token.freed
    assert built == list(range(1, 4 * _MAX_SHAPES))


def test_no_more_shapes_are_kept_than_allowed_and_all_are_freed_in_the_end():
    made = []

    def build(rows: int) -> tuple[list, ...]:
        made.append(Request(rows))
        return ([made[-1]],)

    requests = Requests(build)
    for rows in range(1, 3 * _MAX_SHAPES):
        requests.of(rows)
        assert sum(not request.freed for request in made) <= _MAX_SHAPES
    requests.free()
    assert all(request.freed for request in made)
