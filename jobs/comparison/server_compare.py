"""Chats with servers of one model, this program's and llama-cpp-python's, and prints how fast they answer, as Markdown.

    python jobs/comparison/server_compare.py CHECKPOINT WORK [--rounds 3] [--ranks 1,2] [--formats bfloat16,int8]

server_load.py says what is asked and measured. In each round every server is started, asked, and ended in turn, because
the memory's rate drifts; figures are medians of the rounds, and a ratio is the median of those to llama.cpp in the same
round, so more than 1 is faster. All have the same number of threads in all. WORK/server-compare.json holds every round.

llama_cpp.server has one sequence: whoever asks while it answers another waits. It does not stop an answer for the next
question here (--interrupt_requests false), keeps no logits that nobody reads, and computes attention the way llama.cpp
calls flash, as llama.cpp's own programs do. This program takes its defaults: several sequences, keys and values in the
weights' dtype, drafts.

A checkpoint without a chat template, as weights_tools.synth writes them, is given one, and words for all its tokens.
WORK must not be that of another recipe, whose GGUF files have no tokenizer.

Cost: as in_memory.py; another environment of 100 MB; each round, for each server, the 21 chats of server_load.py, which
for 1.1 billion parameters take some minutes. Needs a machine that does nothing else.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import server_load
from programs import Models, Setup, add_options, environment, rival, setups
from rounds import spread
from served import Server, as_root, llama_cpp, ours
from server_load import Load, levels
from vocabulary import talking

LONGEST = 2048
LLAMA_CPP_SERVER = ["llama-cpp-python[server]"]
LLAMA_CPP_OPTIONS = ("--interrupt_requests", "false", "--logits_all", "false", "--flash_attn", "true")
Start = Callable[[], AbstractContextManager[Server]]
# By format, name of the server and number of clients: what was measured in each round.
Figures = dict[tuple[str, str, int], list[dict]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, ranks="1,2", activations="int8", formats="bfloat16")
    server_load.add_options(parser)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    as_root()
    models = Models(talking(options.checkpoint, options.work), options.work, tokenizer=True)
    servers = list(contestants(models, options))
    load = Load(options.turns, options.tokens)
    figures: Figures = {}
    for _ in range(options.rounds):
        for format, name, start in servers:
            with start() as server:
                for line in levels(server.url, options.clients, load):
                    figures.setdefault((format, name, line["clients"]), []).append(line)
        found = [{"format": key[0], "server": key[1], "rounds": rounds} for key, rounds in figures.items()]
        (models.work / "server-compare.json").write_text(json.dumps(found, indent=2) + "\n")
    for line in table(figures):
        print(line)


def contestants(models: Models, options: argparse.Namespace) -> Iterator[tuple[str, str, Start]]:
    """Format, name, and how it is started: in each format llama.cpp first."""
    described = json.loads((models.checkpoint / "config.json").read_text())
    longest = min(described["max_position_embeddings"], LONGEST)
    python = environment(models.work / "llama-server", [LLAMA_CPP_SERVER])
    for format in options.formats:
        yield format, rival(format), theirs(models, python, format, options.threads, longest)
        for setup in setups(options, format):
            yield format, str(setup), own(models, setup, options.threads, longest)


def own(models: Models, setup: Setup, threads: int, longest: int) -> Start:
    slabs, log = models.slabs(setup.format, setup.ranks), models.work / "server.log"
    each = max(1, threads // setup.ranks)
    settings = ("--threads", each, "--longest", longest, "--activations", setup.activations)
    return lambda: ours(slabs, setup.ranks, log, *settings)


def theirs(models: Models, python: Path, format: str, threads: int, longest: int) -> Start:
    model, log = models.gguf(format), models.work / "llama-server.log"
    settings = ("--n_ctx", longest, "--n_threads", threads, "--n_threads_batch", threads)
    return lambda: llama_cpp(python, model, log, *settings, *LLAMA_CPP_OPTIONS)


def table(figures: Figures) -> Iterator[str]:
    yield "| chats at once | server | tokens a second | ratio | first token, median | 90 of 100 | ms per later token |"
    yield "|---" * 7 + "|"
    for format, name, clients in sorted(figures, key=lambda key: (key[0], key[2])):
        lines, others = figures[format, name, clients], figures[format, rival(format), clients]
        speed = spread(rates(lines), rates(others))
        first, most = (statistics.median([line["ttft_s"][key] for line in lines]) for key in ("median", "p90"))
        pace = statistics.median([line["tpot_s"] for line in lines])
        cells = [f"{clients}", name, f"{speed['median']:.1f}", f"{speed['ratio']:.2f}"]
        yield f"| {' | '.join([*cells, f'{first:.2f} s', f'{most:.2f} s', f'{1e3 * pace:.1f}'])} |"


def rates(lines: Sequence[dict]) -> list[float]:
    return [line["tokens_per_s"] for line in lines]


if __name__ == "__main__":
    main()
