"""How far many prompts have come: a bar where somebody watches, a line now and then in a log, nothing for one."""

import pytest

from tpi_mpi.offline import progress
from tpi_mpi.offline.lines import Lines
from tpi_mpi.offline.progress import BatchProgress, SurveyProgress
from tpi_mpi.offline.tasks import Survey


@pytest.fixture(params=[None, 100], ids=["log", "terminal"])
def width(request, monkeypatch) -> int | None:
    monkeypatch.setattr(progress, "terminal_width", lambda: request.param)
    monkeypatch.setattr(progress, "_MOVING", 0.0)
    return request.param


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, in its only entry, which goes on only when it is changed."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_batch_tells_prompts_tokens_and_what_is_left(width, clock, capsys):
    with BatchProgress(Survey(prompts=1000, answered=100)) as batch:
        for _ in range(10):
            clock[0] += 35
            batch.add(answered=2, tokens=350)
    shown = capsys.readouterr().err
    first, last = ("102 of 1000 prompts, 350 tokens, 10.0 tokens/s", "120 of 1000 prompts, 3500 tokens, 10.0 tokens/s")
    assert f"{first}, 4 h 21 min left" in shown
    assert f"{last}, 4 h 16 min left" in shown
    if width is None:
        assert shown.splitlines()[0] == f"tpi_mpi: {first}, 4 h 21 min left"
        assert len(shown.splitlines()) == 10


def test_a_log_gets_few_lines(monkeypatch, clock, capsys):
    monkeypatch.setattr(progress, "terminal_width", lambda: None)
    with BatchProgress(Survey(prompts=1000)) as batch:
        for _ in range(900):
            clock[0] += 0.125
            batch.add(answered=0, tokens=1)
    assert capsys.readouterr().err.splitlines()[:2] == [
        "tpi_mpi: 0 of 1000 prompts, 240 tokens, 8.0 tokens/s",
        "tpi_mpi: 0 of 1000 prompts, 480 tokens, 8.0 tokens/s",
    ]


def test_one_prompt_has_no_bar(width, clock, capsys):
    with BatchProgress(Survey(prompts=1)) as batch:
        clock[0] += 100
        batch.add(answered=0, tokens=100)
    assert capsys.readouterr().err == ""


def test_a_slow_survey_says_how_much_it_has_read(width, clock, capsys, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"x\n" * 100)
    with Lines(str(path)) as lines, SurveyProgress(lines) as survey:
        for count, _ in enumerate(lines, start=1):
            survey.seen(count)
            clock[0] += 1
    shown = capsys.readouterr().err
    assert f"31 prompts checked, 31 % of {path}"[: width and 60] in shown
    assert "prompts checked, 2 %" not in shown


def test_a_quick_survey_shows_nothing(width, clock, capsys, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b"x\n")
    with Lines(str(path)) as lines, SurveyProgress(lines) as survey:
        clock[0] += 1
        survey.seen(1)
    assert capsys.readouterr().err == ""
