"""The programs that are compared: one model in the files that each wants, and a run of each."""

import argparse
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

HERE = Path(__file__).parent
TORCH = ["torch", "numpy", "safetensors", "gguf", "-c", str(HERE.parents[1] / ".ci/constraints.txt")]
OTHERS = ["llama-cpp-python", "transformers", "accelerate"]
# Formats of weights, and those of llama.cpp that take as many bits or half a bit more or less.
FORMATS = {"bfloat16": "bf16", "int8": "q8_0", "int4": "q4_0"}
# Of a run: all new tokens and the seconds of all, from the beginning of the first prompt to the last token; and those
# of the steps in which only new tokens were computed.
TOTALS = ("new_tokens", "generate_s", "decode_tokens", "decode_s")


class Models:
    """A checkpoint in the files that each program wants, in a directory; those that are missing there are made.

    tokenizer: whether llama.cpp is to have one.
    """

    def __init__(self, checkpoint: Path, work: Path, tokenizer: bool = False):
        work.mkdir(parents=True, exist_ok=True)
        self.checkpoint, self.work = checkpoint, work
        self._tokenizer = ["--tokenizer"] if tokenizer else []

    @cached_property
    def python(self) -> Path:
        """That of an environment of the other programs, which is made when it is first needed."""
        return environment(self.work / "venv")

    def slabs(self, format: str, ranks: int) -> Path:
        slabs = self.work / f"slabs-{format}-{ranks}"
        if not (slabs / "manifest.json").exists():
            command = [sys.executable, "-m", "weights_tools.split", self.checkpoint, slabs]
            subprocess.run([*command, "--ranks", str(ranks), "--dtype", format], check=True)
        return slabs

    def gguf(self, format: str) -> Path:
        if format == "bfloat16":
            return self._made(format, lambda target: ["to_gguf.py", self.checkpoint, target, *self._tokenizer])
        return self._made(format, lambda target: ["quantize.py", self.gguf("bfloat16"), target, FORMATS[format]])

    def _made(self, format: str, command: Callable[[Path], list]) -> Path:
        target = self.work / f"model-{FORMATS[format]}.gguf"
        if not target.exists():
            unfinished = target.with_suffix(".partial")
            script, *arguments = command(unfinished)
            subprocess.run([self.python, HERE / script, *arguments], check=True)
            unfinished.rename(target)
        return target


def environment(directory: Path, packages: Sequence[Sequence[str]] = (TORCH, OTHERS)) -> Path:
    """The Python of an environment of their own for other programs. packages: what pip is told, each time it runs."""
    python, done = directory / "bin/python", directory / "complete"
    if not done.exists():
        venv.create(directory, with_pip=True)
        for each in packages:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *each], check=True)
        done.touch()
    return python


@dataclass(frozen=True)
class Task:
    """Requests: prompts of token ids, and tokens to add to each. threads: of all ranks together.

    memory: MiB in all, page cache included, or None for as much as there is. batch: requests at once, or ``auto``.
    sharing: whether what prompts begin with in common is computed once.
    """

    prompts: Sequence[Sequence[int]]
    new_tokens: int
    threads: int
    memory: int | None = None
    batch: int | str = 1
    sharing: bool = True


@dataclass(frozen=True)
class Setup:
    """One way to run this program. activations: their bits where weights are packed."""

    format: str
    ranks: int
    activations: str

    def __str__(self) -> str:
        ranks = f"{self.ranks} rank{'s' if self.ranks > 1 else ''}"
        return f"tpi_mpi {self.format}, {ranks}" + (", int8 activations" if self.activations == "int8" else "")


def ours(models: Models, setup: Setup, task: Task) -> dict:
    """What a run took. Raises CalledProcessError if it fails."""
    prompts, answers, report = (models.work / name for name in ("prompts.jsonl", "answers.jsonl", "report.json"))
    requests = [{"id": index, "prompt_token_ids": list(prompt)} for index, prompt in enumerate(task.prompts)]
    prompts.write_text("".join(json.dumps(request) + "\n" for request in requests))
    answers.unlink(missing_ok=True)

    command = ["mpirun", "-np", str(setup.ranks), "--bind-to", "none", "--map-by", ":oversubscribe"]
    each = task.memory and task.memory // setup.ranks
    command += [*limited(each), sys.executable, "-m", "tpi_mpi.generate", models.slabs(setup.format, setup.ranks)]
    command += ["--memory", f"{each}MiB"] if each else []
    command += ["--threads", str(max(1, task.threads // setup.ranks)), "--activations", setup.activations]
    command += ["--batch", str(task.batch), *([] if task.sharing else ["--no-share-prefixes"])]
    command += ["--prompts", prompts, "--output", answers, "--report", report]
    subprocess.run([*command, "--max-new-tokens", str(task.new_tokens)], check=True)
    found = json.loads(report.read_text())
    records = sorted(map(json.loads, answers.read_text().splitlines()), key=lambda record: record["id"])
    return {
        "load_s": found["load_s"],
        "ttft_s": found["ttft_s"],
        "tpot_s": found["tpot_s"]["median"],
        "peak_rss_bytes": max(rank["peak_rss_bytes"] for rank in found["ranks"]),
        "kernels": found["ranks"][0]["kernels"],
        **{key: found[key] for key in TOTALS},
        "cached_tokens": sum(record["cached_tokens"] for record in records),
        "token_ids": [record["token_ids"] for record in records],
    }


def theirs(models: Models, program: str, model: Path, task: Task, *options: str) -> dict:
    """What a run of baseline.py took: one request after another. Raises CalledProcessError if it fails."""
    return rival_run(models, task, "baseline.py", program, model, *options)


def slots(models: Models, model: Path, task: Task, *options: str) -> dict:
    """What a run of slots.py took: llama.cpp with all requests at once. Raises CalledProcessError if it fails."""
    return rival_run(models, task, "slots.py", model, *options)


def rival_run(models: Models, task: Task, script: str, *arguments: str | Path) -> dict:
    command = [*limited(task.memory), models.python, HERE / script, *arguments]
    command += ["--prompts", json.dumps([list(prompt) for prompt in task.prompts])]
    command += ["--new-tokens", str(task.new_tokens), "--threads", str(task.threads)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def limited(mib: int | None) -> Sequence[str]:
    return [str(HERE / "limited.sh"), f"{mib}M"] if mib else []


def add_options(
    parser: argparse.ArgumentParser, ranks: str, activations: str, formats: str = ",".join(FORMATS)
) -> None:
    """Adds what every comparison wants to know. ranks, activations, formats: their defaults."""
    add = parser.add_argument
    add("checkpoint", type=Path)
    add("work", type=Path)
    add("--formats", type=some_of(*FORMATS), default=formats, help=f"of weights, compared in turn (default: {formats})")
    add("--ranks", type=numbers, default=ranks, help=f"of this program, each in turn (default: {ranks})")
    bits = f"of this program where weights are packed, each in turn (default: {activations})"
    add("--activations", type=some_of("int16", "int8"), default=activations, help=bits)
    add("--threads", type=int, default=os.cpu_count(), help="in all (default: as many as there are cores)")


def numbers(text: str) -> list[int]:
    """For argparse: numbers with commas between them."""
    return [int(part) for part in text.split(",")]


def some_of(*known: str) -> Callable[[str], list[str]]:
    """For argparse: names with commas between them."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := set(names).difference(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: known are {', '.join(known)}")
        return names

    return parse


def setups(options: argparse.Namespace, format: str) -> Iterator[Setup]:
    """The ways to run this program that the options ask for, with weights in one format."""
    for ranks in options.ranks:
        for activations in options.activations if format.startswith("int") else ["int16"]:
            yield Setup(format, ranks, activations)


def contestants(
    models: Models, options: argparse.Namespace, rival_with: Callable[[Path, Task], dict]
) -> Iterator[tuple[str, str, Callable[[Task], dict]]]:
    """Format, name, and how it runs: in each format llama.cpp first. rival_with: how that runs with a model."""
    for format in options.formats:
        yield format, rival(format), partial(rival_with, models.gguf(format))
        for setup in setups(options, format):
            models.slabs(format, setup.ranks)
            yield format, str(setup), partial(ours, models, setup)


def rival(format: str) -> str:
    return f"llama.cpp {FORMATS[format]}"


def distinct_prompts(count: int, length: int) -> Sequence[Sequence[int]]:
    """Prompts that differ from their first token on, so that nothing of one could be used for another."""
    return [range(first, first + length) for first in range(3, 3 + count)]


def attempted(run: Callable[[], dict]) -> dict:
    """What a run took, or nothing if it was killed, or failed."""
    try:
        return run()
    except subprocess.CalledProcessError:
        return {}


def drop_from_page_cache(files: Path) -> None:
    for path in [files] if files.is_file() else files.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
