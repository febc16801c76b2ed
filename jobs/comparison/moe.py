"""A mixture of experts with less and less memory: this program beside its lower bound, and llama.cpp with the same.

    python jobs/comparison/moe.py WORK [--like qwen3-30b-a3b] [--memory 0,8192,4096,2048] [--ranks 2]
    python jobs/comparison/moe.py WORK --in-memory --layers 12 [--ranks 1,2] [--rounds 5]

Prints, as Markdown, for each budget of memory (MiB in all, page cache included; 0 for no limit): milliseconds of a
token of the first part of a continuation, after a cold start, and of the second; the lower bound of the second: the
bytes that had to be read, at the rate of the disk that was measured before and after, or what a token takes without a
limit; how often a wanted expert was in memory; the bytes read for a token; and the same of llama.cpp, whose file is
mapped. All weights are the same numbers, and so are most choices, which are compared. WORK/moe.json has what every run
took.

With --in-memory, nothing is limited: medians of the rounds and, in parentheses, the least and the most. In each round
every program runs in turn; a ratio is the median of those to llama.cpp in the same round. llama.cpp multiplies with
activations of 8 bits, and so does this program, unless --activations int16 is given.

The prompt counts, and so does its continuation: weights_tools.synth makes it so, and how much of a choice of experts is
kept from one id to the next (--persistence, --skew; docs/performance.md). With --tokens random, both programs are given
the same random ids instead, whatever they choose; or those of a file, a JSON list: first the prompt's. Other figures of
the weights need another WORK.

Needs root (for memory cgroups), a C++ compiler and cmake (for llama.cpp), this project installed, and a machine that
does nothing else.
Cost: in WORK, the model once for each of --ranks and once for llama.cpp (of Qwen3-30B-A3B, 17 GB each), and an
environment of 2 GB; ten minutes of compiling the first time, then some minutes for each budget.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from programs import HERE, attempted, drop_from_page_cache, environment, limited, numbers
from rounds import show_spread, spread

RIVAL = "llama.cpp q4_0"
FIRST = 1000  # id of a prompt that counts


class Mixture:
    """Random weights in the files that each program wants, in a directory; those that are missing there are made."""

    def __init__(self, options: argparse.Namespace):
        self.work = options.work
        self.work.mkdir(parents=True, exist_ok=True)
        shape = ["--config", options.config] if options.config else ["--like", options.like]
        layers = ["--layers", str(options.layers)] if options.layers else []
        habits = {"--expert-skew": options.skew, "--expert-persistence": options.persistence}
        given = [word for key, value in habits.items() if value is not None for word in (key, str(value))]
        self._like = [*shape, *layers, *given, "--dtype", "int4", "--seed", str(options.seed)]
        self._suffix = f"-{options.layers}-layers" if options.layers else ""

    @cached_property
    def python(self) -> Path:
        return environment(self.work / "venv")

    def slabs(self, ranks: int) -> Path:
        slabs = self.work / f"slabs-{ranks}{self._suffix}"
        if not (slabs / "manifest.json").exists():
            command = [sys.executable, "-m", "weights_tools.synth", slabs, *self._like]
            subprocess.run([*command, "--ranks", str(ranks), "--force"], check=True)
        return slabs

    @cached_property
    def gguf(self) -> Path:
        target = self.work / f"model-q4_0{self._suffix}.gguf"
        if not target.exists():
            unfinished = target.with_suffix(".partial")
            subprocess.run([sys.executable, HERE / "moe_gguf.py", unfinished, *self._like], check=True)
            unfinished.rename(target)
        return target

    def words(self, ranks: int) -> int:
        return json.loads((self.slabs(ranks) / "config.json").read_text())["vocab_size"]


@dataclass(frozen=True)
class Task:
    """A prompt, and how many tokens each of two parts has. given: what follows the prompt, whatever is chosen.

    threads: of all ranks together. memory: MiB in all, or 0 for no limit. seconds: after which it is given up.
    """

    prompt: Sequence[int]
    given: Sequence[int]
    parts: Sequence[int]
    threads: int
    seconds: int
    memory: int = 0

    @property
    def arguments(self) -> list[str]:
        return ["--given", json.dumps(list(self.given))]


def ours(mixture: Mixture, ranks: int, activations: str, task: Task, *options: str) -> dict:
    """What a run of paced.py took. Raises CalledProcessError if it fails."""
    each = task.memory // ranks
    command = ["mpirun", "-np", str(ranks), "--bind-to", "none", "--map-by", ":oversubscribe"]
    command += [*limited(each), *given_up(task), sys.executable, HERE / "paced.py", mixture.slabs(ranks), *options]
    command += ["--memory", f"{each}MiB"] if each else []
    command += ["--prompt", json.dumps(list(task.prompt)), "--parts", ",".join(map(str, task.parts)), *task.arguments]
    command += ["--threads", str(max(1, task.threads // ranks)), "--activations", activations]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    first, second = (part["seconds"] for part in found["ranks"][0]["parts"][1:])
    return {"seconds": (first, second), **found}


def theirs(mixture: Mixture, task: Task) -> dict:
    """What a run of slots.py took. Raises CalledProcessError if it fails."""
    drop_from_page_cache(mixture.gguf)
    command = [*limited(task.memory), *given_up(task), mixture.python, HERE / "slots.py", mixture.gguf]
    command += ["--prompts", json.dumps([list(task.prompt)]), "--new-tokens", str(sum(task.parts) + 1)]
    command += ["--threads", str(task.threads), *task.arguments, *(["--mapped"] if task.memory else [])]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    seconds, read = zip(*found.pop("steps"), strict=True)
    count = task.parts[0]
    own = {"seconds": (seconds[:count], seconds[count:]), "read_bytes": statistics.mean(read[count:])}
    return {**found, **own, "token_ids": found["token_ids"][0]}


def given_up(task: Task) -> list[str]:
    return ["timeout", str(task.seconds)]


def streaming(mixture: Mixture, options: argparse.Namespace) -> None:
    """Each round and budget with this program, and then with llama.cpp."""
    results = []
    (ranks,) = options.ranks
    _ = mixture.slabs(ranks), mixture.gguf, mixture.python
    for _ in range(options.rounds):
        for memory in options.memory:
            own = task(mixture, options, options.parts, memory)
            rival = task(mixture, options, options.rival_parts, memory)
            result = {"memory": memory, "ours": attempted(partial(ours, mixture, ranks, options.activations[0], own))}
            result["theirs"] = attempted(partial(theirs, mixture, rival))
            results.append(result)
            (options.work / "moe.json").write_text(json.dumps(results, indent=2) + "\n")
    for line in streaming_table(results):
        print(line)


def task(mixture: Mixture, options: argparse.Namespace, parts: Sequence[int], memory: int = 0) -> Task:
    """A prompt, and what follows it: of a file, the tokens are one after another."""
    count, longest = options.prompt_tokens, options.prompt_tokens + sum(options.parts)
    if options.tokens == "own":
        ids = list(range(FIRST, FIRST + count))
    elif options.tokens == "random":
        ids = np.random.default_rng(options.seed).integers(mixture.words(options.ranks[0]), size=longest).tolist()
    else:
        ids = json.loads(Path(options.tokens).read_text())
    return Task(ids[:count], ids[count : count + sum(parts)], parts, options.threads, options.seconds, memory)


def streaming_table(results: Sequence[dict]) -> Iterator[str]:
    yield (
        "| memory | cold, ms | warm, ms | bound | ratio | in memory | read, MB | disk before, after, GB/s "
        "| llama.cpp cold, ms | warm, ms | read, MB | ratio | same choices | different tokens |"
    )
    yield "|---" * 14 + "|"
    whole = [result["ours"] for result in results if result["ours"] and not result["memory"]]
    in_memory = statistics.median(statistics.median(took["seconds"][1]) for took in whole) if whole else 0.0
    for result in results:
        memory = f"{result['memory']} MiB" if result["memory"] else "no limit"
        yield f"| {' | '.join([memory, *own_cells(result['ours'], in_memory), *rival_cells(**result)])} |"


def own_cells(took: dict, in_memory: float) -> list[str]:
    if not took:
        return ["was killed, or failed", *[""] * 6]
    cold, warm = map(statistics.mean, took["seconds"])
    usage = Usage.of(took)
    bound = max(usage.needed / usage.disk, in_memory)
    hits = "" if usage.hits is None else f"{100 * usage.hits:.1f} %"
    disks = ", ".join(f"{rate / 1e9:.2f}" for rate in usage.rates)
    times = [*map(milliseconds, (cold, warm, bound)), f"{warm / bound:.2f}" if bound else ""]
    return [*times, hits, f"{usage.read / 1e6:.0f}", disks]


def rival_cells(memory: int, ours: dict, theirs: dict) -> list[str]:
    if not theirs:
        return ["was killed, or failed, or gave up", *[""] * 5]
    cold, warm = map(statistics.mean, theirs["seconds"])
    cells = [milliseconds(cold), milliseconds(warm), f"{theirs['read_bytes'] / 1e6:.0f}"]
    if not ours:
        return [*cells, "", "", ""]
    pairs = list(zip(ours["token_ids"], theirs["token_ids"], strict=False))
    same, distinct = sum(own == other for own, other in pairs), len(set(ours["token_ids"]))
    ratio = statistics.mean(ours["seconds"][1]) / warm
    return [*cells, f"{ratio:.2f}", f"{same} of {len(pairs)}", f"{distinct} of {len(ours['token_ids'])}"]


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.{1 if seconds < 0.1 else 0}f}"


@dataclass(frozen=True)
class Usage:
    """Of the second part, all ranks together. read, needed: bytes a token; wrong guesses are only read.

    hits: what part of the wanted experts was in memory, if there are any. rates: of the disk, before and after.
    """

    read: float
    needed: float
    hits: float | None
    rates: Sequence[float]

    @property
    def disk(self) -> float:
        return statistics.mean(self.rates)

    @classmethod
    def of(cls, took: dict) -> "Usage":
        ranks, count = took["ranks"], len(took["seconds"][1])
        total = {key: sum(rank["parts"][2].get(key, 0) for rank in ranks) for key in KEYS}
        needed = total["bytes_fetched"] - total["bytes_wasted"]
        hits = 1 - total["missed"] / total["wanted"] if total["wanted"] else None
        rates = [sum(pair) for pair in zip(*(rank["disk_rates"] for rank in ranks), strict=True)]
        return cls(total["bytes_fetched"] / count, needed / count, hits, rates)


KEYS = ("bytes_fetched", "bytes_wasted", "wanted", "missed")


def in_memory(mixture: Mixture, options: argparse.Namespace) -> None:
    """Rounds of all programs, llama.cpp first."""
    own = task(mixture, options, options.parts)
    programs = {RIVAL: partial(theirs, mixture, own)}
    for ranks in options.ranks:
        for activations in options.activations:
            name = f"tpi_mpi int4, {ranks} rank{'s' if ranks > 1 else ''}, {activations} activations"
            programs[name] = partial(ours, mixture, ranks, activations, own, "--no-disk")
            mixture.slabs(ranks)
    rounds: dict[str, list[dict]] = {name: [] for name in programs}
    for _ in range(options.rounds):
        for name, run in programs.items():
            rounds[name].append(run())
        (options.work / "moe-in-memory.json").write_text(json.dumps(rounds, indent=2) + "\n")
    for line in in_memory_table(rounds):
        print(line)


def in_memory_table(rounds: dict[str, list[dict]]) -> Iterator[str]:
    times = {name: [1e3 * statistics.median(took["seconds"][1]) for took in all] for name, all in rounds.items()}
    yield "| | ms per output token | ratio | same choices |"
    yield "|---|---|---|---|"
    for name, own in times.items():
        figure = spread(own, times[RIVAL])
        pairs = list(zip(rounds[name][0]["token_ids"], rounds[RIVAL][0]["token_ids"], strict=True))
        same = f"{sum(one == other for one, other in pairs)} of {len(pairs)}"
        yield f"| {name} | {show_spread(figure)} | {figure['ratio']:.2f} | {same} |"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("work", type=Path)
    add("--like", default="qwen3-30b-a3b", help="a shape that weights_tools.synth knows (default: qwen3-30b-a3b)")
    add("--config", metavar="FILE", type=Path, help="any other config.json of qwen3_moe")
    add("--layers", type=int, help="make only this many")
    add("--seed", type=int, default=0, help="of the weights, and of random tokens")
    add("--skew", type=float, help="that of weights_tools.synth (default: its own)")
    add("--persistence", type=float, help="that of weights_tools.synth (default: its own)")
    add("--in-memory", action="store_true", help="limit nothing, and compare speeds alone")
    add("--memory", type=numbers, default=[0, 8192, 4096, 2048], help="MiB in all, each in turn; 0 for no limit")
    add("--ranks", type=numbers, help="of this program (default: 2; with --in-memory 1,2, each in turn)")
    add(
        "--activations", type=lambda text: text.split(","), default=["int8"], help="bits, each in turn with --in-memory"
    )
    add("--threads", type=int, default=os.cpu_count(), help="in all (default: as many as there are cores)")
    add("--tokens", metavar="own|random|FILE", default="own", help="what follows the prompt (default: own)")
    add("--prompt-tokens", type=int, default=64)
    add("--parts", type=numbers, default=[64, 64], help="tokens until caches are full, and after (default: 64,64)")
    add("--rival-parts", type=numbers, default=[8, 16], help="those of llama.cpp, but in memory (default: 8,16)")
    add("--rounds", type=int, default=1)
    add("--seconds", type=int, default=900, help="after which a run is given up (default: 900)")
    options = parser.parse_args()
    options.ranks = options.ranks or ([1, 2] if options.in_memory else [2])
    return options


def main() -> None:
    options = arguments()
    compare = in_memory if options.in_memory else streaming
    compare(Mixture(options), options)


if __name__ == "__main__":
    main()
