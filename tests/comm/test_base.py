"""The plans of an exchange: built once for a shape, and not freed while they are in use."""

from tpi_mpi.comm.allreduce.base import _MAX_SHAPES, Plan, Plans


class Request:
    """A persistent request, as far as it is freed."""

    def __init__(self, rows: int):
        self.rows, self.freed = rows, False

    def Free(self) -> None:  # noqa: N802 (MPI's name)
        self.freed = True


def test_the_shape_of_a_decoded_token_outlives_any_number_of_prompts():
    built = []

    def build(rows: int) -> Plan:
        built.append(rows)
        return Plan([Request(rows)], [Request(rows)])

    plans = Plans(build)
    token = plans.of(1)
    for rows in range(2, 4 * _MAX_SHAPES):
        plans.of(rows)
        assert plans.of(1) is token
    assert not any(request.freed for request in (*token.receives, *token.sends))
    assert built == list(range(1, 4 * _MAX_SHAPES))


def test_no_more_shapes_are_kept_than_allowed_and_all_are_freed_in_the_end():
    made = []

    def build(rows: int) -> Plan:
        made.extend([Request(rows), Request(rows)])
        return Plan(made[-2:-1], made[-1:])

    plans = Plans(build)
    for rows in range(1, 3 * _MAX_SHAPES):
        plans.of(rows)
        assert sum(not request.freed for request in made) <= 2 * _MAX_SHAPES
    plans.free()
    assert all(request.freed for request in made)
