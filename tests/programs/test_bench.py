"""The benchmark: what it computes of rates, and that a run gives everything it promises."""

import json
from dataclasses import replace

import pytest
from conftest import run_module

from tpi_mpi.kernels.formats import Format
from tpi_mpi.measurement.lower_bound import RankLoad, prompt_bound, token_bound
from tpi_mpi.measurement.matrices import Matrices
from tpi_mpi.measurement.rates import ProductRates, Rates

INT4, INT8 = Format.of("int4"), Format.of("int8")
LAYERS, NONE = Matrices({INT4: 800}, {INT4: 400}), Matrices({}, {})


def load(host: str, streamed: int, memory: float, gemv: float, gemm: float) -> RankLoad:
    rates = Rates(100.0, memory, {INT4: ProductRates(gemv, gemm), INT8: ProductRates(2 * gemv, gemm)})
    return RankLoad(host, weights=800, streamed=streamed, layers=LAYERS, head=NONE, rates=rates)


FAST = load("a", 400, 1000.0, 500.0, 4000.0)
SLOW = load("b", 600, 800.0, 400.0, 2000.0)


def test_a_token_takes_as_long_as_the_slowest_ranks_reading():
    bound = token_bound([FAST, SLOW], blocks=4, allreduce=0.5)
    assert (bound.read, bound.compute, bound.allreduce, bound.memory) == (6.0, 2.0, 2.0, 1.0)
    assert bound.total == 6.0


def test_ranks_of_one_host_share_its_disk():
    neighbours = [replace(FAST, host="b", rates=replace(FAST.rates, read=20.0)), SLOW]
    assert token_bound([*neighbours, FAST], blocks=4, allreduce=0.5).read == pytest.approx(1000 / 120)


def test_or_as_computing_and_communicating_where_that_takes_longer():
    pinned = replace(SLOW, streamed=0)
    assert token_bound([FAST, pinned], blocks=4, allreduce=1.0).total == 6.0
    assert token_bound([pinned], blocks=4, allreduce=0.5).total == 4.0


def test_a_prompt_reads_everything_and_multiplies_every_token():
    bound = prompt_bound([FAST, SLOW], tokens=50, blocks=4, allreduce=1.0)
    assert (bound.read, bound.compute, bound.allreduce) == (8.0, 20.0, 4.0)
    assert bound.total == 24.0
    assert prompt_bound([FAST, SLOW], tokens=50, blocks=4, allreduce=7.0, overlap=True).total == 28.0


def test_every_format_takes_its_own_time_and_the_head_sees_one_row_of_a_prompt():
    mixed = Matrices({INT4: 400, INT8: 1600}, {INT4: 200, INT8: 400})
    ranks = [replace(FAST, layers=mixed, head=Matrices({INT8: 500}, {INT8: 500}))]
    assert token_bound(ranks, blocks=4, allreduce=0.5).compute == pytest.approx(400 / 500 + 1600 / 1000 + 500 / 1000)
    assert prompt_bound(ranks, 50, blocks=4, allreduce=1.0).compute == pytest.approx(100 * 600 / 4000 + 500 / 1000)


def test_a_load_survives_json():
    mixed = replace(FAST, head=Matrices({INT8: 500}, {INT8: 400}))
    assert RankLoad.from_json(json.loads(json.dumps(mixed.to_json()))) == mixed


MIXTURE = {
    "model_type": "qwen3_moe",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 96,
}


@pytest.fixture(scope="module")
def bench(demo, tmp_path_factory):
    """A run on slabs in int4, which have an output head in int8."""
    directory = tmp_path_factory.mktemp("bench")
    slabs, files = directory / "slabs", ["--report", directory / "r.json", "--trace", directory / "t.json"]
    run_module("weights_tools.split", demo, slabs, "--ranks", 2, "--dtype", "int4", check=True)
    arguments = [slabs, "--window", 2, "--prompt-tokens", 40, "--new-tokens", 6, "--activations", "int8", *files]
    arguments += ["--draft", "lookup"]
    return run_module("tpi_mpi.bench", *arguments, ranks=2, check=True), directory


def test_standard_output_is_one_object_and_the_report_is_the_same(bench):
    finished, directory = bench
    report = json.loads(finished.stdout)
    assert json.loads((directory / "r.json").read_text()) == report
    assert report["prompt_tokens"] == 40
    assert set(report["allreduce_s"]) == {"1", "40"}
    for name, measured in (("ttft", report["ttft_s"]), ("tpot", report["tpot_s"]["median"])):
        bound = report["lower_bound"][name]
        total = max(bound["read_s"], bound["compute_s"] + bound["allreduce_s"])
        assert bound["total_s"] == pytest.approx(total, abs=3e-6)  # each is rounded
        assert report["ratio"][name] == pytest.approx(measured / bound["total_s"], abs=0.01)


def test_a_token_fetches_exactly_what_is_not_pinned(bench):
    for rank in json.loads(bench[0].stdout)["ranks"]:
        assert rank["pinned_blocks"] == 0
        assert rank["per_token"]["bytes_fetched"] == pytest.approx(rank["rates"]["streamed"], rel=0.15)
        rates = rank["rates"]
        assert min(rates["read"], rates["memory"], rates["weights"], rates["streamed"]) > 0
        assert (sum(rates["head"]["nbytes"].values()) > 0) == (rank["rank"] == 0)


def test_products_are_measured_by_format_and_rows_on_every_rank(bench):
    report = json.loads(bench[0].stdout)
    assert (report["main_format"], report["activations"]) == ("int4 by 32", "int8")
    formats = [(rank, name) for rank in range(2) for name in ("int4 by 32", "int8 by 32")]
    assert [(entry["rank"], entry["format"]) for entry in report["kernels"]] == formats
    for entry in report["kernels"]:
        assert list(entry["decode"]) == ["1", "2", "4", "8", "16"]
        assert list(entry["prompt"]) == ["64", "256"]
        assert min(entry["memory"], *entry["decode"].values(), *entry["prompt"].values()) > 0
        assert not [kernel for kernel in entry["kernels"] if "planes" in kernel]
        rates = report["ranks"][entry["rank"]]["rates"]["products"][entry["format"]]
        assert rates == {"gemv": entry["decode"]["1"], "gemm": entry["prompt"]["256"]}


def test_the_table_has_a_line_for_every_rank_and_time(bench):
    lines = [line for line in bench[0].stderr.splitlines() if "kernels are compiled" not in line]
    assert lines[0].startswith("handbook-3m, int4, 2 ranks, allreduce star, a prompt of 40 tokens")
    kernels = [line for line in lines if " rows at a time" in line or line.startswith("torch, ")]
    assert kernels
    first = [line.split()[0] for line in lines if line and line not in kernels]
    assert first == [*"handbook-3m, rank 0 1 GB/s rank 0 0 1 1 measured TTFT TPOT with".split()]


def test_the_same_tokens_are_timed_with_drafts(bench):
    report = json.loads(bench[0].stdout)
    own = report["with_drafts"]
    assert own["decode_tokens"] == 6
    assert own["tokens_per_sweep"] >= 1
    assert own["sweeps"] <= 7
    assert report["accepted"] == 0
    assert "with drafts: " in bench[0].stderr


def test_the_trace_has_the_memory_too(bench):
    events = json.loads((bench[1] / "t.json").read_text())["traceEvents"]
    assert {event["pid"] for event in events if event["ph"] == "C"} == {0, 1}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A run with memory for some experts, and its report and trace."""
    directory = tmp_path_factory.mktemp("mixture")
    slabs, files = directory / "slabs", ["--report", directory / "r.json", "--trace", directory / "t.json"]
    (directory / "config.json").write_text(json.dumps(MIXTURE))
    config = ["--config", directory / "config.json", "--ranks", 2, "--dtype", "int4"]
    run_module("weights_tools.synth", slabs, *config, check=True)
    arguments = [slabs, "--window", 2, "--prompt-tokens", 40, "--new-tokens", 6, *files]
    finished = run_module("tpi_mpi.bench", *arguments, ranks=2, check=True)
    return finished, json.loads(finished.stdout), json.loads((directory / "t.json").read_text())


def test_experts_are_counted_for_the_prompt_and_for_tokens(mixture):
    for rank in mixture[1]["ranks"]:
        experts, load = rank["experts"], rank["rates"]["experts"]
        assert experts["all"] == 3 * 16
        prompt, token = experts["prompt"], experts["token"]
        assert 4 < prompt["per_layer"] <= 16
        assert token["per_layer"] == 4
        assert prompt["bytes_wanted"] == load["wanted"] > load["missed"] > 0
        assert 0 <= token["hit_rate"] <= 1
        assert token["bytes_missed"] <= token["bytes_wanted"] < prompt["bytes_wanted"]
        row = sum(load["row"]["nbytes"].values())  # without the padding that is read with it
        assert 0.7 * token["bytes_wanted"] < row < token["bytes_wanted"]


def test_the_bound_counts_the_experts_that_were_read(mixture):
    report = mixture[1]
    for name in ("ttft", "tpot"):
        assert report["lower_bound"][name]["read_s"] > 0
        assert report["ratio"][name] > 0
    needed = [rank["rates"]["streamed"] + rank["rates"]["experts"]["missed"] for rank in report["ranks"]]
    for rank, nbytes in zip(report["ranks"], needed, strict=True):
        assert rank["per_token"]["bytes_fetched"] > 0.8 * nbytes  # and what was guessed wrongly


def test_the_table_and_the_trace_tell_experts(mixture):
    finished, _, trace = mixture
    assert [line for line in finished.stderr.splitlines() if "guessed rightly" in line]
    events = [event for event in trace["traceEvents"] if event["name"] == "experts"]
    assert {(event["pid"], event["id"]) for event in events} == {
        (rank, layer) for rank in range(2) for layer in range(3)
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--new-tokens", 0], "--new-tokens is 0; at least 1"),
        (["--prompt-tokens", 513], "--prompt-tokens makes a sequence of 513 tokens; the model's context is 512"),
        (["--prompt", "a"], "--prompt a"),
    ],
)
def test_mistakes_are_named(arguments, words, demo_slabs):
    finished = run_module("tpi_mpi.bench", demo_slabs(1), *arguments)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert words in finished.stderr
