"""Scores a model with EleutherAI's lm_eval, through this program's server and by transformers, and compares both.

    python jobs/comparison/harness.py CHECKPOINT WORK [--ranks 2] [--limit 12]

Three small tasks are made of the handbook: to choose an answer among four, to predict a section, and to answer a
question. lm_eval's local-completions asks a tpi_mpi.serve of float32 slabs in all the ways that it can: with token ids
or text, one request at a time or four, one prompt in a request or four. Its hf computes the same checkpoint in float32.
Prints every score, and for each way the largest difference of a log-likelihood to that of transformers and how many
answers differ in their text; ends with status 1 if a difference exceeds 0.001.

Nothing is fetched from Hugging Face. lm_eval's rolling windows are one token shorter with a server than with
transformers: sections are cut so that each fits into one.

Cost: in WORK a float32 copy of the checkpoint, and an environment of 2 GB; a quarter of a minute for each of nine runs,
and what the model takes. Needs this project installed.
Edit: WAYS, how the server is asked; WORDS, the longest section.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

from programs import TORCH, Models, environment
from served import HANDBOOK, Server, as_root, get, ours

LM_EVAL = ["lm_eval[api]", "transformers", "accelerate"]
MOST_APART = 1e-3
WORDS = 120
CHOICES = 4
WAYS = [
    {"tokenized_requests": tokens, "num_concurrent": concurrent, "batch_size": batch}
    for tokens, concurrent, batch in product((True, False), (1, 4), (1, 4))
]
TASKS = {
    "handbook_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{right}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "handbook_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "handbook_answer": {
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n\n", "Question:"], "max_gen_toks": 40, "temperature": 0.0},
        "metric_list": [{"metric": "exact_match"}],
    },
}
# Of one run: by task and place in it, what the model answered; and by task and metric, the score.
Answers = dict[tuple[str, int], list]
Scores = dict[tuple[str, str], float]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--limit", type=int, default=12, help="requests of each task (default: 12)")
    options = parser.parse_args()

    as_root()
    models = Models(options.checkpoint.resolve(), options.work.resolve())
    harness = Harness(models, options.limit)
    expected, scores = harness.run("hf", {"pretrained": models.checkpoint, "dtype": "float32"}, 4)
    show("transformers", scores)
    slabs = models.slabs("float32", options.ranks)
    with ours(slabs, options.ranks, models.work / "server.log") as server:
        apart = max(compared(harness, server, way, expected) for way in WAYS)
    print(f"the largest difference of all is {apart:.1e}")
    return int(apart > MOST_APART)


def compared(harness: "Harness", server: Server, way: Mapping, expected: Answers) -> float:
    """The largest difference of a log-likelihood when the server is asked in one way."""
    own = {key: value for key, value in way.items() if key != "batch_size"}
    found, scores = harness.run("local-completions", {**harness.address(server), **own}, way["batch_size"])
    show(", ".join(f"{key} {value}" for key, value in way.items()), scores)
    if found.keys() != expected.keys():
        raise SystemExit(f"{len(found)} requests were answered of {len(expected)}")
    apart = max(abs(one - other) for key in expected for one, other in numbers(found[key], expected[key]))
    unlike = sum(found[key] != expected[key] for key in expected if key[0] == "handbook_answer")
    print(f"    largest difference {apart:.1e}, {unlike} other texts", flush=True)
    return apart


def numbers(own: list, other: list) -> Iterator[tuple[float, float]]:
    """The log-likelihoods in two answers to the same request; there are none in texts."""
    for mine, theirs in zip(own, other, strict=True):
        if isinstance(mine, list):
            yield from numbers(mine, theirs)
        elif is_number(mine):
            yield float(mine), float(theirs)


def is_number(value: object) -> bool:
    """Whether this is a log-likelihood: lm_eval writes numbers as text, beside ``True`` or ``False``."""
    try:
        return float(value) < 0
    except ValueError:
        return False


def show(name: str, scores: Scores) -> None:
    print(name, flush=True)
    for (task, metric), score in scores.items():
        print(f"    {task} {metric}: {score:.6f}", flush=True)


class Harness:
    """lm_eval, in an environment of its own, with tasks made of the handbook. limit: requests of each."""

    def __init__(self, models: Models, limit: int):
        self._models, self._limit = models, limit
        self._python = environment(models.work / "lm-eval", (TORCH, LM_EVAL))
        self._tasks, self._results = models.work / "tasks", models.work / "results"
        self._write_tasks()

    def _write_tasks(self) -> None:
        self._tasks.mkdir(exist_ok=True)
        documents = self._tasks / "handbook.jsonl"
        documents.write_text("".join(json.dumps(document) + "\n" for document in sections()))
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(documents)}}}
        for name, task in TASKS.items():
            whole = {"task": name, **source, "test_split": "test", **task}
            (self._tasks / f"{name}.yaml").write_text(json.dumps(whole, indent=2) + "\n")  # JSON is YAML, too

    def address(self, server: Server) -> dict:
        """What lm_eval must know of a server."""
        model = get(server.url, "/v1/models")["data"][0]
        known = {"model": model["id"], "base_url": f"{server.url}/v1/completions", "max_length": model["max_model_len"]}
        return known | {"tokenizer": self._models.checkpoint}

    def run(self, model: str, arguments: Mapping, batch: int) -> tuple[Answers, Scores]:
        """What lm_eval finds. Raises CalledProcessError if it fails."""
        settings = ",".join(f"{key}={value}" for key, value in arguments.items())
        command = [self._python, "-m", "lm_eval", "run", "--model", model, "--model_args", settings]
        command += ["--tasks", ",".join(TASKS), "--include_path", self._tasks, "--limit", str(self._limit)]
        command += ["--device", "cpu", "--batch_size", str(batch)]
        command += ["--log_samples", "--output_path", self._results / "run.json"]
        offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"), "1")
        own = {"HF_HOME": str(self._models.work / "huggingface"), "TOKENIZERS_PARALLELISM": "false"}
        with open(self._models.work / "lm-eval.log", "w") as log:
            subprocess.run(command, env={**os.environ, **offline, **own}, stdout=log, stderr=log, check=True)
        return self._found()

    def _found(self) -> tuple[Answers, Scores]:
        """What was written last; the files' names end in the time."""
        answers: Answers = {}
        for task in TASKS:
            for line in newest(self._results, f"samples_{task}_*.jsonl").read_text().splitlines():
                sample = json.loads(line)
                answers[task, sample["doc_id"]] = sample["resps"]
        results = json.loads(newest(self._results, "run_*.json").read_text())["results"]
        measures = [(task, metric) for task in TASKS for metric in results[task] if metric.endswith(",none")]
        numbers = {(task, metric.removesuffix(",none")): results[task][metric] for task, metric in measures}
        return answers, {key: score for key, score in numbers.items() if "stderr" not in key[1]}


def newest(directory: Path, pattern: str) -> Path:
    return max(directory.glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def sections() -> list[dict]:
    """Of each section of the handbook: its first question, its answer, and that among answers to others."""
    parts = [part.strip().split("\n\n", 1) for part in HANDBOOK.read_text(encoding="utf-8").split("\n## ")[1:]]
    found = [(asked.splitlines()[0], " ".join(answer.split()[:WORDS])) for asked, answer in parts]
    documents = []
    for place, (question, answer) in enumerate(found):
        right = place % CHOICES
        others = [found[(place + step) % len(found)][1] for step in range(1, CHOICES)]
        choices = [*others[:right], answer, *others[right:]]
        documents.append({"question": question, "answer": answer, "choices": choices, "right": right})
    return documents


if __name__ == "__main__":
    sys.exit(main())
