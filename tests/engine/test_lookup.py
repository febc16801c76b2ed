"""Laws of drafts by lookup: what was said before is found, the longest equal part leads, memory is bounded."""

import random

import pytest

from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.engine.drafting.history import MOST_MATCH, History
from tpi_mpi.engine.drafting.lookup import Lookup
from tpi_mpi.engine.request import Request
from tpi_mpi.engine.schedule.sequence import Sequence


def told(*texts: list[int], longest: int = 1000) -> tuple[History, int]:
    """A history of some sequences; and the place of the last one."""
    history = History(longest)
    for text in texts:
        first = history.open(len(text) + 50)
        history.append(first, 0, text)
    return history, first


def test_a_sequence_goes_on_as_it_did():
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4]
    history, first = told(text)
    assert history.find(first, text, 4) == ([5, 6, 7, 8], 3)


def test_another_sequence_is_remembered():
    history, first = told([11, 12, 13, 14, 15, 16], [1, 2, 11, 12, 13])
    assert history.find(first, [1, 2, 11, 12, 13], 10) == ([14, 15, 16], 3)


def test_the_longest_part_leads_and_of_equal_ones_the_latest():
    text = [5, 1, 2, 70, 9, 1, 2, 80, 5, 1, 2]
    history, first = told(text)
    assert history.find(first, text, 1) == ([70], 3)
    text = [5, 1, 2, 70, 9, 1, 2, 80, 6, 1, 2]
    history, first = told(text)
    assert history.find(first, text, 1) == ([80], 2)


def test_a_single_token_leads_nowhere():
    history, first = told([1, 2, 3, 2])
    assert history.find(first, [1, 2, 3, 2], 5) == ([], 0)
    history, first = told([1])
    assert history.find(first, [1], 5) == ([], 0)


def test_what_repeats_itself_goes_on_repeating():
    text = [1, 2, 3] * 3
    history, first = told(text)
    found, match = history.find(first, text, 10)
    assert found == [1, 2, 3, 1, 2, 3, 1, 2, 3, 1]
    assert match == 6
    text = [4] * 30
    history, first = told(text)
    assert history.find(first, text, 8) == ([4] * 8, MOST_MATCH)


@pytest.mark.parametrize("seed", range(5))
def test_it_finds_what_a_search_through_everything_finds(seed):
    draw = random.Random(seed)
    text = [draw.randrange(4) for _ in range(300)]
    history, first = told(text[:1], longest=2000)
    for length in range(1, len(text)):
        found, match = history.find(first, text[:length], 3)
        best = max((common(text[:length], place), place) for place in range(length))
        assert match <= min(best[0], MOST_MATCH)
        if match:
            assert text[:length][-match:] + found[:1] in windows(text[:length] + found[:1], match + 1)
        if 5 <= best[0] < MOST_MATCH:
            assert match >= 5
        history.append(first, length, text[length : length + 1])


def common(text: list[int], place: int) -> int:
    """How many tokens before a place are the last ones of the text."""
    count = 0
    while count < place and text[place - 1 - count] == text[-1 - count] and place < len(text):
        count += 1
    return count


def windows(text: list[int], count: int) -> list[list[int]]:
    return [text[place : place + count] for place in range(len(text) - count)]


def test_the_oldest_sequences_make_room():
    """Ten times as much as there is room for: the latest is found, and nothing breaks."""
    history, draw = History(100), random.Random(3)
    for index in range(40):
        first, text = history.open(70_000), [draw.randrange(50_000) for _ in range(60_000)]
        history.append(first, 0, text)
        history.append(first, len(text), text[100:103])
        assert history.find(first, [*text, *text[100:103]], 5) == (text[103:108], 3), index
    assert sum(array.nbytes for array in arrays(history)) < 6 << 20


def arrays(history: History) -> list:
    return [history._tokens, *(array for chain in history._chains for array in (chain._latest, chain._before))]


def test_chances_are_learned_from_what_came():
    lookup = Lookup(1000)
    sequence = Sequence(Request((1, 2, 3, 4, 1, 2), SamplingOptions(max_new_tokens=200, temperature=0.0)))
    first = lookup.find(sequence, 2)
    assert first.token_ids == [3, 4]
    assert 1 > first.chances[0] > first.chances[1] > 0
    for _ in range(20):
        lookup.learn(sequence, first, [9])
    assert lookup.find(sequence, 2).chances[0] < 0.1
    for _ in range(100):
        lookup.learn(sequence, first, [3, 4, 5])
    assert lookup.find(sequence, 2).chances[1] > 0.8
