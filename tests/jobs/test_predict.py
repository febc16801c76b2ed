"""What is expected of machines that nobody has."""

import json
import subprocess
import sys

import pytest
from conftest import REPOSITORY, environment

MACHINES = "--ranks 2 --memory 3GiB --disk 1GB --links 1,300 0.1,1000"


def predict(*words: str) -> list[dict]:
    command = [sys.executable, "jobs/comparison/predict.py", *" ".join((*words, MACHINES)).split()]
    environ = {**environment(), "PYTHONPATH": str(REPOSITORY)}
    finished = subprocess.run(command, cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    return list(map(json.loads, finished.stdout.splitlines()))


def test_faster_links_are_faster_by_their_sums():
    slow, fast = predict("--like tinyllama-1.1b --dtype int4")
    assert slow["tpot_s"] - fast["tpot_s"] == pytest.approx(slow["sums_s"] - fast["sums_s"], rel=0.05)
    assert (slow["all_experts"], slow["missed_bytes"], slow["hit_rate"]) == (0, 0, 1.0)


def test_what_is_missed_follows_from_the_hit_rate():
    (found, _), (none, _) = (
        predict("--like qwen3-30b-a3b --dtype int4", rate) for rate in ("--hit-rate 0.5", "--hit-rate 0")
    )
    assert found["missed_bytes"] == pytest.approx(none["missed_bytes"] / 2, rel=0.01)
    assert none["tpot_s"] - found["tpot_s"] == pytest.approx(found["missed_bytes"] / 1e9, rel=0.2)
    assert 0 < min(found["kept_experts"]) < found["all_experts"] == 48 * 128


def test_experts_may_be_in_a_format_of_their_own():
    (found, _) = predict("--like gpt-oss-20b --experts-dtype mxfp4")
    (other, _) = predict("--like gpt-oss-20b --dtype mxfp4")
    assert sum(other["pinned_bytes"]) < sum(found["pinned_bytes"])
    assert found["kept_experts"][0] < other["kept_experts"][0]
