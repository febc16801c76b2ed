"""Pictures of traces and reports: they show what was recorded, and refuse what cannot be drawn."""

import json

import pytest
from conftest import run_module

from tpi_mpi.common.trace import Trace, trace_events
from tpi_mpi.measurement import figures

MIB = 1024**2


def span(rank: int, activity: str, name: str, start: float, stop: float) -> dict:
    return {"ph": "X", "pid": rank, "cat": activity, "name": name, "ts": start * 1e3, "dur": (stop - start) * 1e3}


def memory(rank: int, moment: float, resident: int) -> dict:
    sizes = {"resident": resident, "budget": 1024 * MIB}
    return {"ph": "C", "pid": rank, "name": "memory", "ts": moment * 1e3, "args": sizes}


# Milliseconds: a prompt in two chunks of a block, then two tokens.
EVENTS = [
    {"ph": "M", "pid": 0, "name": "process_name", "args": {"name": "rank 0 on here"}},
    span(0, "compute", "layers.0.attention", 0, 4),
    span(0, "compute", "layers.0.attention", 5, 9),
    span(0, "compute", "head.0", 10, 20),
    span(0, "compute", "layers.0.attention", 30, 31),
    span(0, "fetch", "head.0", 25, 35),
    span(0, "compute", "head.0", 36, 38),
    span(0, "compute", "layers.0.attention", 40, 41),
    {"ph": "C", "pid": 0, "name": "rows", "ts": 0, "dur": 20e3, "args": {"tokens": 1, "prompts": 6}},
    {"ph": "C", "pid": 0, "name": "rows", "ts": 30e3, "dur": 8e3, "args": {"tokens": 2, "prompts": 0}},
    memory(0, 0, 512 * MIB),
    memory(0, 41, 768 * MIB),
]


def bars(figure) -> list[tuple[float, float]]:
    """Start and stop of each bar of the timeline."""
    paths = [path for bar in figure.axes[0].collections for path in bar.get_paths()]
    return sorted((float(path.vertices[:, 0].min()), float(path.vertices[:, 0].max())) for path in paths)


def test_a_sweep_reaches_from_its_first_block_to_the_next_sweeps():
    assert bars(figures.trace_figure(EVENTS)) == [(-5, 5), (0, 1), (6, 8)]
    assert bars(figures.trace_figure(EVENTS, sweep=1)) == [(0, 4), (5, 9), (10, 20), (25, 35)]


def test_the_rows_of_every_sweep_are_drawn():
    tokens, prompts = figures.trace_figure(EVENTS).axes[1].containers
    assert [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in tokens] == [(0, 0.02, 1), (0.03, 0.008, 2)]
    assert [(bar.get_y(), bar.get_height()) for bar in prompts] == [(1, 6), (2, 0)]


def test_memory_is_drawn_against_the_budget():
    curve, budget = figures.trace_figure(EVENTS).axes[2].lines
    assert list(curve.get_ydata()) == [0.5, 0.75]
    assert list(budget.get_ydata()) == [1, 1]


def experts(rank: int, layer: int, moment: float, present: int, missed: int) -> dict:
    counts = {"present": present, "missed": missed}
    return {"ph": "C", "pid": rank, "name": "experts", "id": layer, "ts": moment * 1e3, "args": counts}


MIXTURES = [
    *(experts(rank, layer, 1 + layer, 0, 8) for rank in range(2) for layer in (1, 2)),
    *(experts(rank, 1, 30.5, 3, 1) for rank in range(2)),
    *(experts(rank, 2, 35, 4 * rank, 4 * (1 - rank)) for rank in range(2)),
]


def test_missed_experts_are_drawn_by_layer_and_sweep():
    figure = figures.trace_figure([*EVENTS, *MIXTURES])
    above, below = figure.axes[3:5]
    (mesh,) = above.collections
    assert mesh.get_array().tolist() == [[1, 0.25], [1, 0.5]]
    assert [label.get_text() for label in above.get_yticklabels()] == ["1", "2"]
    of_sweep, so_far = below.lines
    assert list(of_sweep.get_xdata()) == [1, 2]
    assert list(of_sweep.get_ydata()) == [0, 10 / 16]
    assert list(so_far.get_ydata()) == [0, 10 / 48]
    assert [len(figures.trace_figure(events).axes) for events in (EVENTS, [*EVENTS, *MIXTURES])] == [3, 6]


def test_a_trace_tells_experts():
    trace = Trace(record=True)
    trace.experts(5, 4, 1)
    own = {"spans": [], "memory": [], "sweeps": [], "fetched": trace.fetched, "host": "here", "budget": None}
    (event,) = (event for event in trace_events(1, own) if event["ph"] == "C")
    assert (event["name"], event["pid"], event["id"], event["args"]) == ("experts", 1, 5, {"present": 3, "missed": 1})


def plot(tmp_path, content: object, *arguments, out: str = "out.png"):
    source = tmp_path / "source.json"
    source.write_text(json.dumps(content))
    return run_module("tpi_mpi.plot", source, tmp_path / out, *arguments)


def test_a_run_can_be_drawn(demo_slabs, tmp_path):
    trace, report = tmp_path / "t.json", tmp_path / "r.json"
    files = ["--trace", trace, "--report", report]
    run_module("tpi_mpi.generate", demo_slabs(2), "--prompt", "What", "--memory", "2GiB", *files, ranks=2, check=True)
    for source, name in ((trace, "t.png"), (report, "r.png")):
        finished = run_module("tpi_mpi.plot", source, tmp_path / name)
        assert (finished.returncode, finished.stderr) == (0, "")
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        ({"traceEvents": EVENTS}, ["--sweep", 3], "sweep 3 is not in the trace, which has 2 complete ones"),
        ({"traceEvents": EVENTS[:2]}, [], "sweep 1 is not in the trace, which has 0 complete ones"),
        ({"traceEvents": [{"name": "of another program"}]}, [], "is neither a trace nor a report of this program"),
        ({"ranks": [{}]}, [], "is neither a trace nor a report of this program"),
        ({"a": 1}, [], "is neither a trace nor a report of this program"),
        ([], [], "is not a JSON object"),
    ],
)
def test_what_cannot_be_drawn_is_refused(content, arguments, words, tmp_path):
    finished = plot(tmp_path, content, *arguments)
    assert finished.returncode == 2
    assert words in finished.stderr
    assert not (tmp_path / "out.png").exists()


def test_an_unknown_format_is_refused(tmp_path):
    finished = plot(tmp_path, {"traceEvents": EVENTS}, out="out.nothing")
    assert finished.returncode == 2
    assert "out.nothing cannot be drawn" in finished.stderr
