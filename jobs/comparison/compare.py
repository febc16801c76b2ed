"""Runs one model that does not fit into memory with this program, llama.cpp, Accelerate and transformers in turn.

    python jobs/comparison/compare.py CHECKPOINT WORK [--memory 2560] [--ranks 2] [--formats bfloat16,int8,int4]

All get the same prompt and memory (page cache included), and start from a cold disk. In bfloat16 all have the same
weights, so the tokens should be the same too. In the other formats the checkpoint is quantized by this program and by
llama.cpp, each in its own way, for itself. Prints a table at the end; WORK/results.json holds one JSON object for each.

Needs root (for memory cgroups), a C++ compiler and cmake (for llama.cpp), and this project installed. This makes a
checkpoint of 3 billion random parameters: python -m weights_tools.synth CHECKPOINT --like open-llama-3b.
Cost: in WORK, for each format one or two more copies of the checkpoint as large as that makes them, one in bfloat16 in
any case, and an environment of 2 GB; ten minutes of compiling the first time, then some minutes.
Edit: KEEP, the weights that Accelerate is told to keep in memory: as many as help it.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from programs import Models, Task, add_options, attempted, drop_from_page_cache, ours, rival, setups, theirs

KEEP = "2GiB"
PROMPT = list(range(3, 35))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, ranks="2", activations="int16")
    parser.add_argument("--memory", type=int, default=2560, help="MiB in all (default: 2560)")
    parser.add_argument("--new-tokens", type=int, default=8)
    options = parser.parse_args()

    models = Models(options.checkpoint, options.work)
    task = Task([PROMPT], options.new_tokens, options.threads, options.memory)
    results = []
    for name, files, run in list(runs(models, task, options)):
        drop_from_page_cache(files)
        results.append({"program": name, **attempted(run)})
    (options.work / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    for line in table(results):
        print(line)


def runs(models: Models, task: Task, options: argparse.Namespace) -> Iterator[tuple[str, Path, Callable[[], dict]]]:
    """What runs, the files of its model, and how: each format with this program and then with llama.cpp."""
    for format in options.formats:
        for setup in setups(options, format):
            files = models.slabs(format, setup.ranks)
            yield str(setup), files, lambda setup=setup: ours(models, setup, task)
        model = models.gguf(format)
        yield rival(format), model, lambda model=model: theirs(models, "llama.cpp", model, task)
    for program in ("accelerate", "transformers") if "bfloat16" in options.formats else ():
        run = lambda program=program: theirs(models, program, models.checkpoint, task, "--keep", KEEP)  # noqa: E731
        yield program, models.checkpoint, run


def table(results: Sequence[dict]) -> Iterator[str]:
    width = max(len(result["program"]) for result in results)
    yield f"{'program':{width}}       load       TTFT       TPOT  peak memory  first tokens"
    for result in results:
        if "tpot_s" not in result:
            yield f"{result['program']:{width}} was killed, or failed"
            continue
        times = "".join(f"{result[key]:9.3f} s" for key in ("load_s", "ttft_s", "tpot_s"))
        tokens = " ".join(map(str, result["token_ids"][0][:4]))
        yield f"{result['program']:{width}}{times} {result['peak_rss_bytes'] / 2**20:8.0f} MiB  {tokens}"


if __name__ == "__main__":
    main()
