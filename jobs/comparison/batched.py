"""Times many sequences at once, in memory, with this program and with llama.cpp, in several formats of weights.

    python jobs/comparison/batched.py CHECKPOINT WORK [--rounds 3] [--formats int4,bfloat16] [--sequences 1,2,4,8,16,32]

Prints, as Markdown, new tokens a second of all sequences together, by the number of sequences: first of the steps in
which only new tokens are computed, then of the whole, prompts included. Figures are medians of the rounds and, in
parentheses, the least and the most. In each round every program runs in turn, because the memory's rate drifts; a ratio
is the median of those to llama.cpp in the same round and format, so more than 1 is faster. Times include the choice of
the most likely token, and what each program does when it first touches its weights, which belongs to the prompts.
WORK/batched.json holds all this, and what every run took.

llama.cpp decodes with a slot for each sequence, as its server does; slots.py says how. It multiplies quantized weights
with activations of 8 bits, as this program does with --activations int8. A sequence of this program may end early, by
the model's own choice, which takes one from the batch; one of llama.cpp's never does.

Needs a C++ compiler and cmake (for llama.cpp), this project installed, and a machine that does nothing else. This makes
a checkpoint of 1.1 billion random parameters: python -m weights_tools.synth CHECKPOINT --like tinyllama-1.1b.
Cost: in WORK, for each format one more copy of the checkpoint, as large as that makes it, and one for each of --ranks;
an environment of 2 GB; ten minutes of compiling the first time, then some five minutes a round on two cores.
Edit: PROMPT, the length of the prompts; NEW, the tokens after each.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from functools import partial

from programs import Models, Task, add_options, contestants, distinct_prompts, numbers, rival, slots
from rounds import show_spread, spread

PROMPT = 32
NEW = 32
# By format, name of the program and number of sequences: what it took in each round.
Figures = dict[tuple[str, str, int], list[dict]]
# What a rate is of: the keys of tokens and of seconds.
RATES = {
    "new tokens a second": ("decode_tokens", "decode_s"),
    "new tokens a second, prompts included": ("new_tokens", "generate_s"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, ranks="1", activations="int16,int8", formats="int4,bfloat16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sequences", type=numbers, default="1,2,4,8,16,32", help="at once, each number in turn")
    options = parser.parse_args()

    models = Models(options.checkpoint, options.work)
    programs = list(contestants(models, options, partial(slots, models)))
    figures: Figures = {(format, name, n): [] for format, name, _ in programs for n in options.sequences}
    for _ in range(options.rounds):
        for count in options.sequences:
            for format, name, run in programs:
                took = run(Task(distinct_prompts(count, PROMPT), NEW, options.threads, batch=count))
                del took["token_ids"]  # quantized models of two programs differ, and so do their tokens
                figures[format, name, count].append(took)
        medians = list(summary(figures))
        (options.work / "batched.json").write_text(json.dumps(medians, indent=2) + "\n")
    for format in options.formats:
        for rate in RATES:
            for line in table([line for line in medians if line["format"] == format], rate):
                print(line)


def summary(figures: Figures) -> Iterator[dict]:
    for (format, name, count), rounds in figures.items():
        line = {"format": format, "program": name, "sequences": count}
        for rate in RATES:
            own, others = (rates(each, rate) for each in (rounds, figures[format, rival(format), count]))
            line[rate] = spread(own, others)
        yield line | {"rounds": rounds}


def rates(rounds: Sequence[dict], rate: str) -> list[float]:
    tokens, seconds = RATES[rate]
    return [took[tokens] / took[seconds] for took in rounds]


def table(medians: Sequence[dict], rate: str) -> Iterator[str]:
    """Of one format: llama.cpp first, then each way to run this program and its ratio."""
    first, *others = dict.fromkeys(line["program"] for line in medians)
    found = {(line["program"], line["sequences"]): line[rate] for line in medians}
    yield f"\n{rate[0].upper()}{rate[1:]}:\n"
    yield f"| sequences | {first} | {''.join(f'{name} | ratio | ' for name in others)}".rstrip()
    yield "|---" * (2 + 2 * len(others)) + "|"
    for count in dict.fromkeys(line["sequences"] for line in medians):
        cells = [str(count), show_spread(found[first, count])]
        for name in others:
            cells += [show_spread(found[name, count]), f"{found[name, count]['ratio']:.2f}"]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
