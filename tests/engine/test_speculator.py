"""Laws of speculation: it never makes a run much longer, and where drafts are right, it makes it much shorter.

Runs are simulated: sweeps and drafts take the time they are said to, and a sequence says what it once said. What a
model of 135 million parameters said, and what a copy of it in 4 bits would have drafted, is in recorded_drafts.json.
"""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.engine.drafting import model_drafts, speculator
from tpi_mpi.engine.drafting.credit import Credit
from tpi_mpi.engine.drafting.lookup import Lookup
from tpi_mpi.engine.drafting.speculator import Speculator
from tpi_mpi.engine.drafting.sweep_times import SweepTimes
from tpi_mpi.engine.request import Request
from tpi_mpi.engine.schedule.sequence import Sequence

RECORDED = json.loads(Path(__file__).with_name("recorded_drafts.json").read_text())
KINDS = sorted(RECORDED)


class Simulation:
    """Sequences that all say the same text, each with other mistakes in what is guessed of it; beside them the time.

    seconds: of a sweep, by the number of rows. step: seconds of a token that the model drafts for each of some
    sequences, or None without a model. guesses: for each token of the text, what the model drafts, and how probable it
    holds that. row: seconds of each token that it must catch up with.
    """

    def __init__(
        self, monkeypatch, prompt, text, guesses, seconds, step=None, lookup=True, noise=0.0, count=1, unseen=1, row=0.0
    ):
        self.now, self.text, self.guesses = 0.0, text, guesses
        self._seconds, self._step, self._noise, self._draw = seconds, step, noise, random.Random(1)
        clock = SimpleNamespace(perf_counter=lambda: self.now)
        monkeypatch.setattr(speculator, "time", clock)
        monkeypatch.setattr(model_drafts, "time", clock)
        request = Request(tuple(prompt), SamplingOptions(max_new_tokens=len(text)))
        self.sequences, self.kind = [Sequence(request) for _ in range(count)], "self"
        self._unseen, self._row = dict.fromkeys(self.sequences, unseen), row
        scheduler = SimpleNamespace(drafted=64, room_after=lambda own: min(64, own.request.length - len(own.ids)))
        self.drafted = self.right = self.asked = 0
        model = self if step is not None else None
        self.speculator = Speculator(scheduler, Lookup(2000) if lookup else None, model, self._record)

    def _record(self, kind, drafted, right):
        self.drafted, self.right = self.drafted + drafted, self.right + right

    def unseen(self, sequence):
        return self._unseen[sequence]

    def next_tokens(self, drafts):
        self.asked += 1
        self.now += self._step + sum(self._row * (self.unseen(own) - 1) for own in drafts)
        for own in drafts:
            self._unseen[own] = 1
        return {own: self._guess(own, list(draft)) for own, draft in drafts.items()}

    def _guess(self, sequence, draft):
        place = sequence.new_tokens
        id, probability = self.guesses[place + len(draft)]
        return (id if draft == self.text[place : place + len(draft)] else 0), probability

    def verified(self, sequence):
        pass

    forget = discard = verified

    def run(self) -> float:
        """The time of the whole text."""
        for sequence in self.sequences:
            sequence.add(self.text[0])
        while any(self._running()):
            drafts = self.speculator.drafts(self._running())
            rows = len(self._running()) + sum(map(len, drafts.values()))
            seconds = self._seconds(rows) * (1 + self._noise * self._draw.uniform(-1, 1))
            self.now += seconds
            for sequence in self._running():
                self._accept(sequence, drafts.get(sequence, []))
            self.speculator.swept(rows, 0, seconds, seconds * (0.1 if self._seconds is streaming else 0.9))
        return self.now

    def _running(self):
        return [sequence for sequence in self.sequences if sequence.new_tokens < len(self.text)]

    def _accept(self, sequence, draft):
        place = sequence.new_tokens
        right = next((n for n, id in enumerate(draft) if id != self.text[place + n]), len(draft))
        for id in self.text[place : place + right + 1]:
            sequence.add(id)
        self.speculator.verified(sequence, right + 1)


def streaming(rows: int) -> float:
    """The disk takes a second, whatever is computed."""
    return 1.0


def in_memory(rows: int) -> float:
    """Two rows take a fifth longer than one; eight twice as long."""
    return 1 + (rows - 1) / 7


def experts(rows: int) -> float:
    """Most rows want experts of their own."""
    return 1 + 0.8 * (min(rows, 8) - 1) + 0.05 * max(0, rows - 8)


def computing(rows: int) -> float:
    """Every row takes as long as the first."""
    return float(rows)


TIMES = [streaming, in_memory, experts, computing]


def recorded(kind: str):
    own = RECORDED[kind]
    return own["prompt"], own["text"], list(zip(own["guess"], own["probability"], strict=True))


def random_text(count: int = 300):
    """Nothing that can be guessed, and a model that is sure of its wrong guesses."""
    draw = random.Random(2)
    text = [draw.randrange(1, 5) for _ in range(count)]
    return text[:20], text, [(-1, 0.95)] * count


@pytest.mark.parametrize("noise", [0.0, 0.2])
@pytest.mark.parametrize("step", [None, 0.02, 0.3])
@pytest.mark.parametrize("seconds", TIMES)
@pytest.mark.parametrize("kind", [*KINDS, None])
def test_a_run_never_takes_much_longer(monkeypatch, kind, seconds, step, noise):
    prompt, text, guesses = recorded(kind) if kind else random_text()
    plain = seconds(1) * (len(text) - 1)
    taken = Simulation(monkeypatch, prompt, text, guesses, seconds, step, noise=noise).run()
    assert taken <= 1.03 * plain + 2 * seconds(1)


@pytest.mark.parametrize("count", [2, 5, 7, 20])
@pytest.mark.parametrize("seconds", TIMES)
@pytest.mark.parametrize("step", [None, 0.3])
def test_neither_does_a_batch(monkeypatch, step, seconds, count):
    prompt, text, guesses = random_text()
    plain = seconds(count) * (len(text) - 1)
    taken = Simulation(monkeypatch, prompt, text, guesses, seconds, step, count=count).run()
    assert taken <= 1.03 * plain + 2 * seconds(count)


@pytest.mark.parametrize(("unseen", "row"), [(1000, 0.0005), (1000, 0.05), (100, 0.01)])
def test_nor_one_with_a_model_that_must_catch_up_first(monkeypatch, unseen, row):
    prompt, text, guesses = random_text()
    run = Simulation(monkeypatch, prompt, text, guesses, streaming, 0.1, count=3, unseen=unseen, row=row)
    assert run.run() <= 1.03 * (len(text) - 1) + 2 + 1


def test_a_model_that_is_no_longer_right_is_hardly_asked(monkeypatch):
    text = [index % 7 + 1 for index in range(600)]
    guesses = [(id, 0.99) if index < 200 else (0, 0.03) for index, id in enumerate(text)]
    run = Simulation(monkeypatch, [20, 21], text, guesses, in_memory, 0.2, lookup=False)
    run.run()
    assert run.asked < 200 + 30


@pytest.mark.parametrize("kind", KINDS)
def test_right_drafts_save_sweeps(monkeypatch, kind):
    prompt, text, guesses = recorded(kind)
    both = Simulation(monkeypatch, prompt, text, guesses, streaming, 0.02).run()
    model = Simulation(monkeypatch, prompt, text, guesses, streaming, 0.02, lookup=False).run()
    lookup = Simulation(monkeypatch, prompt, text, guesses, streaming).run()
    assert both <= 1.1 * min(model, lookup)
    assert model < len(text) / 2
    if kind.startswith(("edit", "repeat")):
        assert lookup < 0.6 * len(text)


def test_where_rows_cost_as_much_as_sweeps_nothing_is_drafted(monkeypatch):
    run = Simulation(monkeypatch, *recorded("chat-1"), computing, 0.3)
    run.run()
    assert run.drafted < 0.25 * len(run.text)


def test_a_model_is_asked_until_it_is_not_sure(monkeypatch):
    """It is right ten times, and then not: drafts get as long as that, and no longer."""
    text = [index % 11 + 1 for index in range(500)]
    guesses = [(id, 0.99) if id != 11 else (0, 0.2) for id in text]
    run = Simulation(monkeypatch, [20, 21], text, guesses, streaming, 0.05, lookup=False)
    seconds = run.run()
    assert seconds < 500 / 11 * 1.8
    assert run.right > 0.8 * run.drafted


def test_times_are_learned_and_move_together():
    times = SweepTimes()
    for _ in range(20):
        times.note(1, 1.0, 0.5)
        times.note(9, 2.0, 1.5)
    assert times.seconds(1) == pytest.approx(1, rel=0.1)
    assert times.seconds(9) == pytest.approx(2, rel=0.2)
    assert 1.1 < times.seconds(4) < 1.9
    for _ in range(20):
        times.note(9, 4.0, 3.0)
    assert times.seconds(1) == pytest.approx(2, rel=0.5)


def test_more_rows_cost_nothing_at_first_sight_while_the_disk_is_waited_for():
    times = SweepTimes()
    times.note(1, 1.0, 0.1)
    assert times.seconds(8) == 1.0
    times = SweepTimes()
    times.note(1, 1.0, 1.0)
    assert 1.5 < times.seconds(8) < 2.5


def test_one_hiccup_says_little():
    times = SweepTimes()
    for _ in range(10):
        times.note(1, 1.0, 1.0)
    times.note(1, 60.0, 60.0)
    assert times.seconds(1) < 1.5


def test_credit_is_bounded_whatever_was_won_before():
    credit = Credit()
    credit.note(1.0, 1.0, 1.0)
    for _ in range(100):
        credit.note(1.0, 8.0, 1.0)
    assert credit.seconds <= 4
    for _ in range(3):
        credit.note(3.0, 1.0, 1.0)
    assert credit.seconds < 0
