"""Laws of the links: one for each rank but 0, possible values, the same list everywhere, time after time."""

import time

from tpi_mpi.comm.links import Link, probe_links


def test_every_rank_knows_every_link(world, together):
    for _ in range(2):
        links = probe_links(world)
        assert len(links) == world.size - 1
        assert all(0 < link.latency < 60 and link.bandwidth > 0 for link in links)
        told = world.broadcast([vars(link) for link in links])
        assert [Link(**link) for link in told] == links


def test_a_rank_that_answers_late_has_the_longest_way(world, together, monkeypatch):
    if world.size < 3:
        return
    if world.rank == 2:
        send = world.comm.Isend

        class Late:
            """The communicator, with a modem before it."""

            def __getattr__(self, name):
                return getattr(comm, name)

            def Isend(self, *arguments):  # noqa: N802
                time.sleep(0.02)
                return send(*arguments)

        comm = world.comm
        monkeypatch.setattr(world, "comm", Late())
    links = probe_links(world)
    assert links[1].latency > 0.009
    assert links[1].latency == max(link.latency for link in links)
    assert links[1].bandwidth == min(link.bandwidth for link in links)
