"""Times one model that fits into memory with this program and with llama.cpp, in several formats of weights.

    python jobs/comparison/in_memory.py CHECKPOINT WORK [--rounds 5] [--ranks 1,2] [--formats bfloat16,int8,int4]

Prints, as Markdown, milliseconds of a token after a prompt of 32 and tokens a second of a prompt of 256: medians of the
rounds and, in parentheses, the least and the most. In each round every program runs in turn, because the memory's rate
drifts; a ratio is the median of those to llama.cpp in the same round and format. A run continues several prompts, and
reports medians, so that the first, which is not warm yet, hardly counts: the same with both programs. Times include the
choice of the most likely token. Each program quantizes weights in its own way. WORK/in-memory.json holds all this, and
what every run took.

llama.cpp multiplies quantized weights with activations of 8 bits, as this program does with --activations int8.

Needs a C++ compiler and cmake (for llama.cpp), this project installed, and a machine that does nothing else. This makes
a checkpoint of 1.1 billion random parameters: python -m weights_tools.synth CHECKPOINT --like tinyllama-1.1b.
Cost: in WORK, for each format one more copy of the checkpoint, as large as that makes it, and one for each of --ranks;
an environment of 2 GB; ten minutes of compiling the first time, then some minutes a round.
Edit: SHORT and LONG, the lengths of the prompts; NEW, the tokens after the short ones; REQUESTS, the prompts of a run.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Sequence

from programs import FORMATS, Models, Task, add_options, ours, setups, theirs

SHORT, LONG = 32, 256
NEW = 16
REQUESTS = 5
# By format and name of the program: what it took in each round.
Figures = dict[tuple[str, str], list[dict]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, ranks="1,2", activations="int16,int8")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    models = Models(options.checkpoint, options.work)
    contestants = list(programs(models, options))
    figures: Figures = {(format, name): [] for format, name, _ in contestants}
    for _ in range(options.rounds):
        for format, name, run in contestants:
            figures[format, name].append(measured(run, options.threads))
        medians = list(summary(figures))
        (options.work / "in-memory.json").write_text(json.dumps(medians, indent=2) + "\n")
    for line in table(medians):
        print(line)


def programs(models: Models, options: argparse.Namespace) -> Iterator[tuple[str, str, Callable[[Task], dict]]]:
    """Format, name, and how it runs: in each format llama.cpp first."""
    for format in options.formats:
        model = models.gguf(format)
        yield format, rival(format), lambda task, model=model: theirs(models, "llama.cpp", model, task)
        for setup in setups(options, format):
            models.slabs(format, setup.ranks)
            yield format, str(setup), lambda task, setup=setup: ours(models, setup, task)


def rival(format: str) -> str:
    return f"llama.cpp {FORMATS[format]}"


def measured(run: Callable[[Task], dict], threads: int) -> dict:
    """One program in one round."""
    short = run(Task(prompts(SHORT), NEW, threads))
    long = run(Task(prompts(LONG), 2, threads))
    for took in (short, long):
        del took["token_ids"]  # quantized models of two programs differ, and so do their tokens
    return {"token_ms": 1e3 * short["tpot_s"], "prompt_tokens_s": LONG / long["ttft_s"], "runs": [short, long]}


def prompts(length: int) -> Sequence[Sequence[int]]:
    """Prompts that differ from their first token on, so that nothing of one could be used for another."""
    return [range(first, first + length) for first in range(3, 3 + REQUESTS)]


def summary(figures: Figures) -> Iterator[dict]:
    for (format, name), rounds in figures.items():
        line = {"format": format, "program": name}
        for key in ("token_ms", "prompt_tokens_s"):
            own, others = ([found[key] for found in each] for each in (rounds, figures[format, rival(format)]))
            ratios = [mine / theirs for mine, theirs in zip(own, others, strict=True)]
            line[key] = {"median": statistics.median(own), "least": min(own), "most": max(own)}
            line[key]["ratio"] = statistics.median(ratios)
        yield line | {"rounds": rounds}


def table(medians: Sequence[dict]) -> Iterator[str]:
    yield f"| | ms per output token | ratio | tokens a second of a prompt of {LONG} | ratio |"
    yield "|---|---|---|---|---|"
    for line in medians:
        cells = [line["program"]]
        for key in ("token_ms", "prompt_tokens_s"):
            figure = line[key]
            cells += ["{median:.1f} ({least:.1f} to {most:.1f})".format(**figure), f"{figure['ratio']:.2f}"]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
