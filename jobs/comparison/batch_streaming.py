"""Many requests at once with a model that does not fit into memory: this program, and llama.cpp beside it.

    python jobs/comparison/batch_streaming.py CHECKPOINT WORK [--memory 2560] [--ranks 2] [--requests 32]

Each program continues one request alone, then all of them in one batch, with the same memory (page cache included) and
from a cold disk. Prints, as Markdown, the seconds of both, from the first prompt to the last token; their ratio, by the
number of requests: 1 is what they take one after another; and the peak of resident memory, of the rank with most of it,
beside the budget. WORK/batch-streaming.json holds what every run took.

llama.cpp's server would give each request a slot. llama-cpp-python does not ship that server, and its own decodes one
sequence at a time, so slots.py does what the server's slots do, with one cache for all, which takes less memory.
llama.cpp reads nearly the whole model for every step: with --rival-tokens K it makes only K tokens of each request, and
its seconds after the prompts are multiplied to what all tokens would have taken. The table says so.

Needs root (for memory cgroups), a C++ compiler and cmake (for llama.cpp), and this project installed. This makes a
checkpoint of 3 billion random parameters: python -m weights_tools.synth CHECKPOINT --like open-llama-3b.
Cost: in WORK, for each format one or two more copies of the checkpoint as large as that makes them, one in bfloat16 in
any case, and an environment of 2 GB; ten minutes of compiling the first time, then some ten minutes.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from programs import (
    Models,
    Task,
    add_options,
    attempted,
    distinct_prompts,
    drop_from_page_cache,
    ours,
    rival,
    setups,
    slots,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, ranks="2", activations="int16", formats="bfloat16")
    add = parser.add_argument
    add("--memory", type=int, default=2560, help="MiB in all (default: 2560)")
    add("--requests", type=int, default=32, help="at once (default: 32)")
    add("--prompt-tokens", type=int, default=32, help="of each request (default: 32)")
    add("--new-tokens", type=int, default=32, help="of each request (default: 32)")
    add("--rival-tokens", metavar="K", type=int, help="of each request with llama.cpp (default: all); at least 2")
    options = parser.parse_args()

    models = Models(options.checkpoint, options.work)
    results = []
    for name, files, run, tokens in list(programs(models, options)):
        alone, together = (cold(run, files, task(options, count, tokens)) for count in (1, options.requests))
        results.append({"program": name, "tokens": tokens, "alone": alone, "together": together})
        (options.work / "batch-streaming.json").write_text(json.dumps(results, indent=2) + "\n")
    for line in table(results, options):
        print(line)


def programs(models: Models, options: argparse.Namespace) -> Iterator[tuple[str, Path, Callable[[Task], dict], int]]:
    """What runs, the files of its model, how, and the new tokens of a request: in each format this program first."""
    for format in options.formats:
        for setup in setups(options, format):
            run = lambda task, setup=setup: ours(models, setup, task)  # noqa: E731
            each = f" of {options.memory // setup.ranks} MiB"
            yield str(setup) + each, models.slabs(format, setup.ranks), run, options.new_tokens
        model = models.gguf(format)
        run = lambda task, model=model: slots(models, model, task, "--one-cache")  # noqa: E731
        yield f"{rival(format)}, {options.memory} MiB", model, run, options.rival_tokens or options.new_tokens


def task(options: argparse.Namespace, count: int, tokens: int) -> Task:
    return Task(distinct_prompts(count, options.prompt_tokens), tokens, options.threads, options.memory, batch=count)


def cold(run: Callable[[Task], dict], files: Path, task: Task) -> dict:
    """What a run took whose model was not in the page cache, or nothing if it was killed, or failed."""
    drop_from_page_cache(files)
    return attempted(lambda: run(task))


def table(results: Sequence[dict], options: argparse.Namespace) -> Iterator[str]:
    count, tokens = options.requests, options.new_tokens
    yield f"{count} requests, {options.prompt_tokens} tokens each, and {tokens} new ones:\n"
    yield f"| | one alone | all at once | all / {count} x one | new tokens a second | peak memory | first tokens |"
    yield "|---|---|---|---|---|---|---|"
    for result in results:
        yield f"| {' | '.join(cells(result, count, tokens))} |"


def cells(result: dict, count: int, tokens: int) -> list[str]:
    name = result["program"]
    if result["tokens"] != tokens:
        name += f", from {result['tokens']} tokens of each"
    alone, together = (result[key] and seconds(result[key], result["tokens"], tokens) for key in ("alone", "together"))
    times = [f"{time:.1f} s" if time else "was killed, or failed" for time in (alone, together)]
    if not (alone and together):
        return [name, *times, "", "", "", ""]
    rate = result["together"]["new_tokens"] * tokens / result["tokens"] / together
    peak = f"{result['together']['peak_rss_bytes'] / 2**20:.0f} MiB"
    first = " ".join(map(str, result["together"]["token_ids"][0][:4]))
    return [name, *times, f"{together / (count * alone):.3f}", f"{rate:.2f}", peak, first]


def seconds(took: dict, made: int, wanted: int) -> float:
    """Of a run that made some tokens of each request, or would have, had it made those that were wanted."""
    return took["generate_s"] + took["decode_s"] * ((wanted - 1) / (made - 1) - 1)


if __name__ == "__main__":
    main()
