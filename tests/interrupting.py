"""Splits that stop in the middle."""

from weights_tools.splitting import cut as cutting


class Interrupted(Exception):
    pass


def interrupt(monkeypatch, after: int) -> list[str]:
    """Has split stop after so many blocks; the names of those that are done are appended to the list."""
    done: list[str] = []
    cut_block = cutting._Cutting.cut_block

    def stop_early(self, block, pieces, bar):
        if len(done) == after:
            raise Interrupted
        done.append(block.name)
        cut_block(self, block, pieces, bar)

    monkeypatch.setattr(cutting._Cutting, "cut_block", stop_early)
    return done
