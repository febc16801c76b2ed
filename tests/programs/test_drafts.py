"""Drafts as users ask for them: the text stays, budgets hold, what cannot draft is refused in a sentence."""

import json
import re
import shutil

import pytest
from conftest import run_module

from tpi_mpi.common.units import MIB

QUESTION = ["--chat", "--prompt", "What is a slab?"]


@pytest.fixture(scope="module")
def slabs(tmp_path_factory, demo):
    """The demo model for two ranks, with a draft of its own."""
    directory = tmp_path_factory.mktemp("with") / "slabs"
    run_module("weights_tools.split", demo, directory, "--ranks", 2, "--with-draft", "int4", check=True)
    return directory


@pytest.fixture(scope="module")
def small(tmp_path_factory, demo_draft):
    """The small model that drafts for it."""
    directory = tmp_path_factory.mktemp("small") / "slabs"
    run_module("weights_tools.split", demo_draft, directory, "--ranks", 1, check=True)
    return directory


def generate(slabs, *arguments, ranks=2, **settings):
    return run_module("tpi_mpi.generate", slabs, *arguments, ranks=ranks, **settings)


@pytest.mark.parametrize("draft", ["lookup", "self", "SMALL", "lookup,self"])
def test_a_budget_holds_and_the_text_stays(draft, slabs, small, tmp_path):
    source, report = draft.replace("SMALL", str(small)), tmp_path / "r.json"
    text = generate(slabs, *QUESTION, "--draft", "none", check=True).stdout
    little = generate(slabs, *QUESTION, "--draft", source, "--memory", "1MiB")
    least = max(int(size) for size in re.findall("give at least ([0-9]+)MiB", little.stderr))
    finished = generate(slabs, *QUESTION, "--draft", source, "--memory", f"{least}MiB", "--report", report, check=True)
    assert finished.stdout == text
    own = json.loads(report.read_text())
    for rank in own["ranks"]:
        assert rank["peak_rss_bytes"] <= least * MIB
    assert own["drafted"] == sum(counts["drafted"] for counts in own["drafts"].values())
    assert own["tokens_per_sweep"] >= 1
    assert own["sweeps"] <= own["new_tokens"]


def test_a_stop_text_inside_a_draft_ends_the_text_there(slabs, tmp_path):
    prompt = {"prompt": "What is a slab?", "stop": ["share of"]}
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"id": n, **prompt}) + "\n" for n in range(6)))
    records = []
    for draft in ("none", "lookup"):  # by the second prompt, all of the answer is known
        out = tmp_path / f"{draft}.jsonl"
        arguments = ["--chat", "--prompts", tmp_path / "p.jsonl", "--output", out, "--draft", draft, "--batch", 1]
        generate(slabs, *arguments, check=True)
        records.append(out.read_text())
    assert records[0] == records[1]
    assert "share" not in records[0].replace(json.dumps(prompt)[1:-1], "").replace('"share of"', "")


def other_tokenizer(small, target):
    """The small model with a token that is spelled otherwise."""
    shutil.copytree(small, target)
    path = target / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["Ġother"] = vocabulary.pop(next(token for token, id in vocabulary.items() if id == 300))
    tokenizer["model"]["merges"] = []
    path.write_text(json.dumps(tokenizer))
    return target


def test_what_cannot_draft_is_refused_in_a_sentence(slabs, small, demo_slabs, tmp_path):
    cases = [
        ("no/slabs", "slab directory no/slabs does not exist"),
        (demo_slabs(2), "was split for 2 ranks, but rank 0 runs it alone; split it for one"),
        (other_tokenizer(small, tmp_path / "other"), "token 300 is 'Ġother' instead of"),
    ]
    for draft, words in cases:
        refused(slabs, draft, words)
    refused(demo_slabs(2), "self", "has no draft; split again with --with-draft int4, or choose another --draft")


def refused(slabs, draft, words, *arguments):
    finished = generate(slabs, *QUESTION, "--draft", draft, *arguments)
    assert words in finished.stderr
    assert finished.returncode == 2
    assert finished.stderr.count("tpi_mpi: ") == 1 or "rank 0" in finished.stderr


def test_a_draft_that_does_not_fit_is_told_by_its_size(slabs):
    finished = generate(slabs, *QUESTION, "--draft", "self", "--memory", "1MiB")
    assert finished.returncode == 2
    assert re.search(r"or choose another --draft: this one's weights take \d+", finished.stderr)


@pytest.mark.parametrize("draft", ["none,lookup", "self,./slabs", "lookup,lookup", "", "lookup,"])
def test_drafts_that_do_not_go_together_are_refused(draft, slabs):
    finished = generate(slabs, *QUESTION, "--draft", draft, ranks=None)
    assert f"--draft is {draft!r}; it is none, lookup, self or a directory of slabs" in finished.stderr
    assert finished.returncode == 2
