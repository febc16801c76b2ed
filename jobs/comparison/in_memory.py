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
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from programs import Models, Task, add_options, contestants, distinct_prompts, rival, theirs
from rounds import show_spread, spread

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
    programs = list(contestants(models, options, partial(theirs, models, "llama.cpp")))
    figures: Figures = {(format, name): [] for format, name, _ in programs}
    for _ in range(options.rounds):
        for format, name, run in programs:
            figures[format, name].append(measured(run, options.threads))
        medians = list(summary(figures))
        (options.work / "in-memory.json").write_text(json.dumps(medians, indent=2) + "\n")
    for line in table(medians):
        print(line)


def measured(run: Callable[[Task], dict], threads: int) -> dict:
    """One program in one round."""
    short = run(Task(distinct_prompts(REQUESTS, SHORT), NEW, threads))
    long = run(Task(distinct_prompts(REQUESTS, LONG), 2, threads))
    for took in (short, long):
        del took["token_ids"]  # quantized models of two programs differ, and so do their tokens
    return {"token_ms": 1e3 * short["tpot_s"], "prompt_tokens_s": LONG / long["ttft_s"], "runs": [short, long]}


def summary(figures: Figures) -> Iterator[dict]:
    for (format, name), rounds in figures.items():
        line = {"format": format, "program": name}
        for key in ("token_ms", "prompt_tokens_s"):
            own, others = ([found[key] for found in each] for each in (rounds, figures[format, rival(format)]))
            line[key] = spread(own, others)
        yield line | {"rounds": rounds}


def table(medians: Sequence[dict]) -> Iterator[str]:
    yield f"| | ms per output token | ratio | tokens a second of a prompt of {LONG} | ratio |"
    yield "|---|---|---|---|---|"
    for line in medians:
        cells = [line["program"]]
        for key in ("token_ms", "prompt_tokens_s"):
            cells += [show_spread(line[key]), f"{line[key]['ratio']:.2f}"]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
