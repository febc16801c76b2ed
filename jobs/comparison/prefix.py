"""Times requests whose prompts begin alike, with this program: the common beginning computed once, and for each.

    python jobs/comparison/prefix.py CHECKPOINT WORK [--requests 64] [--common 500] [--own 12] [--new-tokens 16]

Prints, as Markdown, the seconds from the first prompt to the last token: the median of the rounds and, in parentheses,
the least and the most; their ratio to those without sharing, the median of the rounds; how many of the prompts' tokens
were not computed because they had been before; and whether both gave the same tokens. In each round both run in turn.
WORK/prefix.json holds what every run took.

Needs this project installed, and a machine that does nothing else. This makes a checkpoint of 1.1 billion random
parameters: python -m weights_tools.synth CHECKPOINT --like tinyllama-1.1b.
Cost: in WORK, for each format and each of --ranks one more copy of the checkpoint, as large as that makes it; some
minutes a round.
"""

import argparse
import json
from collections.abc import Iterator, Sequence

from programs import Models, Setup, Task, add_options, ours, setups
from rounds import show_spread, spread

FIRST = 3  # the least token id in a prompt: those below it often mean something
# By name: whether what prompts begin with in common is computed once.
WAYS = {"each its own": False, "shared": True}
# By setup and name of a way: what it took in each round.
Figures = dict[tuple[Setup, str], list[dict]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, ranks="1", activations="int16", formats="int4")
    add = parser.add_argument
    add("--requests", type=int, default=64)
    add("--common", type=int, default=500, help="tokens that all prompts begin with (default: 500)")
    add("--own", type=int, default=12, help="tokens of each prompt after those (default: 12)")
    add("--new-tokens", type=int, default=16, help="of each request (default: 16)")
    add("--batch", default="auto", help="requests at once (default: auto)")
    add("--rounds", type=int, default=3)
    options = parser.parse_args()

    models = Models(options.checkpoint, options.work)
    every = [setup for format in options.formats for setup in setups(options, format)]
    figures: Figures = {(setup, way): [] for setup in every for way in WAYS}
    for _ in range(options.rounds):
        for setup, way in figures:
            figures[setup, way].append(ours(models, setup, task(options, WAYS[way])))
        results = [{"program": str(setup), "way": way, "rounds": took} for (setup, way), took in figures.items()]
        (options.work / "prefix.json").write_text(json.dumps(results, indent=2) + "\n")
    print(f"{options.requests} requests, {options.common} tokens in common, {options.own} of their own:\n")
    for line in table(figures):
        print(line)


def task(options: argparse.Namespace, sharing: bool) -> Task:
    common = list(range(FIRST, FIRST + options.common))
    prompts = [common + [FIRST + index] * options.own for index in range(options.requests)]
    return Task(prompts, options.new_tokens, options.threads, batch=options.batch, sharing=sharing)


def table(figures: Figures) -> Iterator[str]:
    yield "| | beginning | seconds | ratio | tokens not computed again | tokens |"
    yield "|---|---|---|---|---|---|"
    for (setup, way), rounds in figures.items():
        usual = figures[setup, "each its own"]
        figure = spread(seconds(rounds), seconds(usual))
        same = all(took["token_ids"] == usual[0]["token_ids"] for took in rounds)
        cells = [str(setup), way, show_spread(figure), f"{figure['ratio']:.3f}", str(rounds[0]["cached_tokens"])]
        yield f"| {' | '.join(cells)} | {'the same' if same else 'others'} |"


def seconds(rounds: Sequence[dict]) -> list[float]:
    return [took["generate_s"] for took in rounds]


if __name__ == "__main__":
    main()
