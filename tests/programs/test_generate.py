"""The main program as a user runs it: text, files, options, mistakes."""

import json
import shutil
import subprocess
import sys
import time

import pytest
from conftest import DEMO, REPOSITORY, environment, run_module

from tpi_mpi.common.options.sampling import SAMPLING_KEYS

QUESTION = "What is a slab?"


@pytest.fixture(scope="module")
def answer(demo) -> str:
    """What transformers answers to QUESTION."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(demo), AutoModelForCausalLM.from_pretrained(demo)
    conversation = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(
        conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=200, do_sample=False)[0]
    return tokenizer.decode(output[prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def generate(slabs, *arguments, ranks=None, **settings):
    return run_module("tpi_mpi.generate", slabs, *arguments, ranks=ranks, **settings)


def write_prompts(path, *prompts) -> None:
    path.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts), encoding="utf-8")


def read_records(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("ranks", [None, 1, 2, 4, 7])
def test_the_demo_says_what_transformers_says(ranks, answer, demo_slabs):
    finished = generate(demo_slabs(ranks or 1), "--chat", "--prompt", QUESTION, ranks=ranks)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == answer + "\n"
    assert answer.startswith("A slab is an HDF5 file")
    assert "tokens in 1 request on" in finished.stderr


def test_a_batch_with_everything(answer, demo_slabs, tmp_path):
    prompts, output, report, trace = (tmp_path / name for name in ("p.jsonl", "o.jsonl", "r.json", "t.json"))
    write_prompts(
        prompts,
        {"prompt": QUESTION},
        {"id": "cut", "prompt": QUESTION, "max_new_tokens": 3},
        {"id": "stop", "prompt": QUESTION, "stop": ["share of"]},
        {"id": "ids", "prompt_token_ids": [1, 350, 2], "max_new_tokens": 2},
        {"id": "seed", "prompt": "Hi", "temperature": 1.5, "seed": 3},
        {"id": "same seed", "prompt": "Hi", "temperature": 1.5, "seed": 3},
    )
    files = ["--output", output, "--report", report, "--trace", trace]
    finished = generate(demo_slabs(2), "--chat", "--prompts", prompts, "--logprobs", *files, ranks=2, check=True)
    assert finished.stdout == ""
    records = {record["id"]: record for record in read_records(output.read_text())}
    assert set(records) == {1, "cut", "stop", "ids", "seed", "same seed"}
    assert records[1]["text"] == answer
    assert records[1]["finish_reason"] == "stop"
    assert records["cut"]["token_ids"] == records[1]["token_ids"][:3]
    assert records["cut"]["finish_reason"] == "length"
    assert records["stop"]["text"] == answer[: answer.index("share of")]
    assert records["stop"]["finish_reason"] == "stop"
    assert (records["ids"]["prompt"], records["ids"]["prompt_token_ids"]) == (None, [1, 350, 2])
    assert records["seed"]["token_ids"] == records["same seed"]["token_ids"]
    for record in records.values():
        assert len(record["logprobs"]) == len(record["token_ids"])
        assert all(logprob <= 0 for logprob in record["logprobs"])
    check_report(json.loads(report.read_text()), sum(len(record["token_ids"]) for record in records.values()))
    check_trace(json.loads(trace.read_text()))

    again = generate(demo_slabs(2), "--chat", "--prompts", prompts, "--output", output, ranks=2, check=True)
    assert "6 of 6 prompts are already in the output file" in again.stderr
    assert len(read_records(output.read_text())) == 6


def test_the_report_says_what_auto_took_and_what_travelled(demo_slabs, tmp_path):
    report = tmp_path / "r.json"
    arguments = ("--prompt", QUESTION, "--max-new-tokens", 2, "--allreduce", "auto", "--no-overlap", "--report", report)
    finished = generate(demo_slabs(2), *arguments, "--wire", "bfloat16", ranks=2, check=True)
    written = json.loads(report.read_text())
    assert (written["allreduce"], written["wire"], written["overlap"]) == ("auto", "bfloat16", False)
    choice = written["allreduce_choice"]
    few, many = choice["trials"]
    assert few["nbytes"] * many["rows"] == many["nbytes"] * few["rows"]
    assert {few["chosen"], many["chosen"]} <= {"star", "direct", "reduce-scatter"}
    assert f"tpi_mpi: allreduce {few['chosen']}" in finished.stderr
    assert choice["link"]["latency"] > 0


def check_report(report: dict, new_tokens: int) -> None:
    assert {key: report[key] for key in ("model", "world_size", "allreduce", "dtype", "prompts", "new_tokens")} == {
        "model": "handbook-3m",
        "world_size": 2,
        "allreduce": "star",
        "dtype": "bfloat16",
        "prompts": 6,
        "new_tokens": new_tokens,
    }
    assert (report["kv"], report["sequences"]) == ("bfloat16", 6)
    assert report["cached_tokens"] >= 0
    assert report["rows"] == report["prompt_rows"] + report["turns"] + report["drafted"]
    assert report["ttft_s"] > 0
    assert report["load_s"] > 0
    assert 0 < report["tpot_s"]["median"] <= report["tpot_s"]["p90"]
    assert [rank["rank"] for rank in report["ranks"]] == [0, 1]
    for rank in report["ranks"]:
        assert rank["peak_rss_bytes"] > rank["slab_bytes"] > 1_000_000
        assert rank["kv_bytes"] > 0
        assert rank["bytes_fetched"] <= rank["slab_bytes"]  # everything fits, so nothing is fetched twice
        assert min(rank["threads"], rank["pinned_blocks"]) >= 1
        assert (rank["window_blocks"], rank["window_bytes"]) == (0, 0)
        assert all(rank[activity] >= 0 for activity in ("fetch", "stall", "compute", "allreduce"))
        assert rank["host"]


def check_trace(trace: dict) -> None:
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert {event["pid"] for event in spans} == {0, 1}
    assert {event["cat"] for event in spans} >= {"fetch", "compute", "allreduce"}
    assert all(event["dur"] >= 0 and event["ts"] >= 0 and event["name"] for event in spans)


LINES = [
    {"id": "ü", "prompt": "Grüße", "max_new_tokens": 2},
    *({"prompt": f"{i}", "max_new_tokens": 1} for i in range(9)),
]


@pytest.mark.parametrize("ranks", [None, 2])
@pytest.mark.parametrize("source", ["file", "pipe"])
def test_prompts_from_standard_input_are_answered_on_standard_output(source, ranks, demo_slabs, tmp_path):
    others = [{"prompt": f"{i}", "max_new_tokens": 1} for i in range(9)]
    write_prompts(tmp_path / "p.jsonl", {"id": "ü", "prompt": "Grüße", "max_new_tokens": 2}, *others)
    arguments = (demo_slabs(ranks or 1), "--prompts", "-")
    if source == "file":
        with open(tmp_path / "p.jsonl") as lines:
            finished = generate(*arguments, ranks=ranks, stdin=lines, check=True)
    else:
        finished = generate(*arguments, ranks=ranks, input=(tmp_path / "p.jsonl").read_text(), check=True)
    records = {record["id"]: record for record in read_records(finished.stdout)}
    assert {id: len(record["token_ids"]) for id, record in records.items()} == {
        "ü": 2,
        **dict.fromkeys(range(2, 11), 1),
    }
    assert records["ü"]["prompt"] == "Grüße"


@pytest.mark.parametrize("ranks", [None, 2])
def test_an_empty_standard_input_is_a_mistake(ranks, demo_slabs):
    finished = generate(demo_slabs(ranks or 1), "--prompts", "-", ranks=ranks, stdin=subprocess.DEVNULL)
    assert finished.returncode == 2
    assert "standard input has no prompts" in finished.stderr


def test_the_checkpoints_own_settings_count(demo_slabs, tmp_path):
    """Every eos id of generation_config.json ends a sequence; its repetition penalty holds unless another is given."""
    import shutil

    slabs = shutil.copytree(demo_slabs(1), tmp_path / "slabs")
    path = slabs / "generation_config.json"
    first = read_records(run_prompts(slabs, {"prompt": QUESTION}))[0]["token_ids"]
    path.write_text(json.dumps({"eos_token_id": [0, first[5]], "repetition_penalty": 1.0}))
    assert read_records(run_prompts(slabs, {"prompt": QUESTION}))[0]["token_ids"] == first[: first.index(first[5]) + 1]
    path.write_text(json.dumps({"eos_token_id": [0], "repetition_penalty": 9.0}))
    prompts = {"prompt": QUESTION}, {"prompt": QUESTION, "repetition_penalty": 1}
    own, plain = sorted(read_records(run_prompts(slabs, *prompts)), key=lambda record: record["id"])
    assert len(set(own["token_ids"])) == len(own["token_ids"])
    assert plain["token_ids"] == first


def run_prompts(slabs, *prompts) -> str:
    lines = "".join(json.dumps(prompt) + "\n" for prompt in prompts)
    return generate(slabs, "--chat", "--prompts", "-", "--max-new-tokens", 60, input=lines, check=True).stdout


def imported(module: str, *arguments) -> tuple[int, str, set[str]]:
    """The status of a program, its output, and what it imported."""
    command = [sys.executable, "-X", "importtime", "-m", module, *arguments]
    finished = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=environment())
    names = {line.split("|")[-1].strip() for line in finished.stderr.splitlines()}
    return finished.returncode, finished.stdout + finished.stderr, names


RANKS_PROGRAMS = ["tpi_mpi.generate", "tpi_mpi.bench", "tpi_mpi.check", "tpi_mpi.backend", "weights_tools.scatter"]
PROGRAMS = [*RANKS_PROGRAMS, "tpi_mpi.chat", "tpi_mpi.plot"]
PROGRAMS += [f"weights_tools.{name}" for name in ("split", "verify", "inspect", "synth")]


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_and_mistakes_need_neither_kernels_nor_mpi(program):
    status, said, names = imported(program, "--help")
    assert status == 0
    assert "usage: " in said
    assert not {"torch", "numba", "mpi4py"} & names
    status, said, names = imported(program, "--no-such-option")
    assert status == 2
    assert "tpi_mpi: " in said
    assert not {"torch", "numba", "mpi4py"} & names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "slabs", "--ranks", "2"], "checkpoint nowhere is not a directory"),
        ([str(DEMO), "slabs", "--ranks", "99"], "99 ranks are more than the model's 8 query heads"),
        ([str(DEMO), "slabs", "--ranks", "2", "--ignore-key", "a"], "has no key 'a' to ignore"),
    ],
)
def test_a_checkpoint_that_cannot_be_split_so_is_refused_before_torch_is_imported(arguments, words):
    status, said, names = imported("weights_tools.split", *arguments)
    assert status == 2
    assert words in said
    assert "torch" not in names


def test_a_mistake_on_the_command_line_is_said_once_by_rank_0():
    began = time.monotonic()
    finished = generate("slabs", "--prompt", "a", "--timeout", "nan", ranks=4)
    assert time.monotonic() - began < 4  # the others do not wait their turn
    assert finished.returncode == 2
    assert finished.stderr.count("tpi_mpi: --timeout is nan; a finite number of at least 1 is needed") == 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_loads_no_large_library(program):
    assert not {"numpy", "h5py"} & imported(program, "--help")[2]


MISTAKES = [
    ([], "either --prompt TEXT or --prompts FILE"),
    (["--prompt", "a", "--memory", "1MiB"], "a memory budget of 1.00 MiB is too small; give at least"),
    (["--prompt", "a" * 3000], "tokens, and the model's context of 512 leaves no room"),
    (
        ["--prompt", "a", "--max-new-tokens", 600],
        "exceed the model's context of 512; give max_new_tokens 511 or fewer",
    ),
    (["--prompt", ""], "the prompt is empty"),
    (["--prompt", "a", "--chat", "--system", "s", "--report", "no/r.json"], "no/r.json cannot be written"),
    (["--prompts", "no.jsonl"], "prompts file no.jsonl cannot be read"),
    (["--prompt", "a", "--output", "no/o.jsonl"], "no/o.jsonl cannot be written"),
    (["--prompt", "a", "--threads", 999], "--threads 999 is more than the"),
    (["--prompt", "a", "--batch", "many"], "'many' is neither auto nor a whole number"),
    (["--prompt", "a", "--batch", 0], "--batch is 0; at least 1 is needed"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES)
def test_a_mistake_is_one_line_and_status_2(arguments, words, demo_slabs):
    finished = generate(demo_slabs(1), *arguments)
    assert words in finished.stderr
    assert finished.stderr.startswith("tpi_mpi: ")
    assert finished.stderr.count("\n") == 1
    assert (finished.returncode, finished.stdout) == (2, "")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ({"prompt_token_ids": [5, -3]}, "line 2 of {file}: token id -3 is negative"),
        ({"prompt_token_ids": [5, 1024]}, "line 2 of {file}: token id 1024 is not below the model's vocab_size 1024"),
        (
            {"id": "long", "prompt": "a", "max_new_tokens": 512},
            "line 2 of {file}: 1 prompt tokens and 512 new ones exceed",
        ),
    ],
)
def test_a_mistake_in_a_prompts_file_is_found_before_any_work(prompt, words, demo_slabs, tmp_path):
    write_prompts(tmp_path / "p.jsonl", {"id": "good", "prompt": "Hi"}, prompt)
    finished = generate(demo_slabs(1), "--prompts", tmp_path / "p.jsonl", "--output", tmp_path / "o.jsonl")
    assert finished.returncode == 2
    assert words.format(file=tmp_path / "p.jsonl") in finished.stderr
    assert not (tmp_path / "o.jsonl").exists() or (tmp_path / "o.jsonl").read_text() == ""


def test_slabs_for_another_number_of_ranks_are_named_once(demo_slabs):
    finished = generate(demo_slabs(4), "--prompt", "a", ranks=2)
    assert finished.returncode == 2
    sentence = "tpi_mpi: the slabs were split for 4 ranks, but 2 were started; use mpirun -np 4, or split again"
    assert finished.stderr.count(sentence) == 1


def test_a_reader_who_leaves_ends_the_run_cleanly(demo_slabs):
    command = [sys.executable, "-m", "tpi_mpi.generate", demo_slabs(1), "--chat", "--prompt", QUESTION]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.read(1) == "A"
        process.stdout.close()
        stderr = process.stderr.read()
    assert process.returncode == 0
    assert "Traceback" not in stderr
    assert "Error" not in stderr


def test_every_sampling_option_may_be_given_in_a_prompts_file(demo_slabs, tmp_path):
    values = {"max_new_tokens": 2, "temperature": 0.5, "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.1, "seed": 1}
    values |= {"prompt_logprobs": True, "top_logprobs": 3, "min_p": 0.1, "logit_bias": {"7": -1.5}}
    values |= {"presence_penalty": 1, "frequency_penalty": -0.5, "json_schema": {"type": "object"}}
    assert {*values, "stop"} == set(SAMPLING_KEYS)
    write_prompts(tmp_path / "p.jsonl", {"prompt": "Hi", **values, "stop": ["x"]})
    finished = generate(demo_slabs(1), "--prompts", tmp_path / "p.jsonl", check=True)
    assert len(read_records(finished.stdout)[0]["token_ids"]) <= 2


@pytest.mark.parametrize("ranks", [None, 2])
def test_standard_input_that_is_no_utf_8_is_a_mistake(ranks, demo_slabs):
    prompts = '{"prompt": "Stra\xdfe"}\n'.encode("latin-1")
    finished = generate(demo_slabs(ranks or 1), "--prompts", "-", ranks=ranks, input=prompts, text=False)
    assert (finished.returncode, finished.stdout) == (2, b"")
    assert b"line 1 of standard input: not UTF-8: " in finished.stderr
    assert b"Traceback" not in finished.stderr


def test_a_key_that_was_ignored_is_warned_of_at_every_run(demo, tmp_path):
    checkpoint = shutil.copytree(demo, tmp_path / "checkpoint")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "tuned_by": "me"}))
    arguments = [checkpoint, tmp_path / "slabs", "--ranks", 2]
    refused = run_module("weights_tools.split", *arguments)
    assert (refused.returncode, "--ignore-key tuned_by" in refused.stderr) == (2, True)
    run_module("weights_tools.split", *arguments, "--ignore-key", "tuned_by", check=True)
    assert json.loads((tmp_path / "slabs" / "manifest.json").read_text())["ignored_keys"] == ["tuned_by"]
    finished = generate(tmp_path / "slabs", "--prompt", "Hi", "--max-new-tokens", 2, ranks=2)
    assert finished.returncode == 0, finished.stderr
    assert "tpi_mpi: warning: these slabs were split with --ignore-key tuned_by" in finished.stderr
    run_module("weights_tools.verify", tmp_path / "slabs", "--checkpoint", checkpoint, check=True)
