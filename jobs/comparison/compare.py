"""Runs one model that does not fit into memory with this program, llama.cpp, Accelerate and transformers in turn.

    python jobs/comparison/compare.py CHECKPOINT WORK [--memory 2560] [--ranks 2]

All get the same weights, prompt and memory (page cache included), and start from a cold disk. Prints a table at the
end; WORK/results.json holds one JSON object for each.

Needs root (for memory cgroups), a C++ compiler and cmake (for llama.cpp), and this project installed. This makes a
checkpoint of 3 billion random parameters: python -m weights_tools.synth CHECKPOINT --like open-llama-3b.
Cost: in WORK, two more copies of the checkpoint and an environment of 2 GB; ten minutes of compiling the first time,
then some minutes.
Edit: KEEP, the weights that Accelerate is told to keep in memory: as many as help it.
"""

import argparse
import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from baseline import drop_from_page_cache

HERE = Path(__file__).parent
KEEP = "2GiB"
TORCH = ["torch", "numpy", "safetensors", "gguf", "-c", str(HERE.parents[1] / ".ci/constraints.txt")]
OTHERS = ["llama-cpp-python", "transformers", "accelerate"]
PROMPT = list(range(3, 35))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--memory", type=int, default=2560, help="MiB in all (default: 2560)")
    parser.add_argument("--ranks", type=int, default=2, help="of this program, which share the memory")
    parser.add_argument("--new-tokens", type=int, default=8)
    options = parser.parse_args()

    options.work.mkdir(parents=True, exist_ok=True)
    python = environment(options.work / "venv")
    model = gguf(python, options.checkpoint, options.work / "model.gguf")
    slabs = split(options.checkpoint, options.work / f"slabs-{options.ranks}", options.ranks)
    results = [
        ours(slabs, options),
        theirs(python, "llama.cpp", model, options),
        theirs(python, "accelerate", options.checkpoint, options),
        theirs(python, "transformers", options.checkpoint, options),
    ]
    (options.work / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    for line in table(results):
        print(line)


def environment(directory: Path) -> Path:
    """The Python of an environment of their own for the other programs."""
    python, done = directory / "bin/python", directory / "complete"
    if not done.exists():
        venv.create(directory, with_pip=True)
        for packages in (TORCH, OTHERS):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        done.touch()
    return python


def gguf(python: Path, checkpoint: Path, target: Path) -> Path:
    if not target.exists():
        partial = target.with_suffix(".partial")
        subprocess.run([python, HERE / "to_gguf.py", checkpoint, partial], check=True)
        partial.rename(target)
    return target


def split(checkpoint: Path, slabs: Path, ranks: int) -> Path:
    if not (slabs / "manifest.json").exists():
        command = [sys.executable, "-m", "weights_tools.split", checkpoint, slabs, "--ranks", str(ranks)]
        subprocess.run(command, check=True)
    return slabs


def ours(slabs: Path, options: argparse.Namespace) -> dict:
    each, work = options.memory // options.ranks, options.work
    (work / "prompt.jsonl").write_text(json.dumps({"id": 0, "prompt_token_ids": PROMPT}) + "\n")
    drop_from_page_cache(slabs)
    command = ["mpirun", "-np", str(options.ranks), "--bind-to", "none", "--map-by", ":oversubscribe"]
    command += [*limited(each), sys.executable, "-m", "tpi_mpi.generate", slabs, "--memory", f"{each}MiB"]
    command += ["--prompts", work / "prompt.jsonl", "--output", work / "answer.jsonl"]
    command += ["--max-new-tokens", str(options.new_tokens), "--report", work / "report.json"]
    (work / "answer.jsonl").unlink(missing_ok=True)
    subprocess.run(command, check=True)
    report = json.loads((work / "report.json").read_text())
    return {
        "program": f"tpi_mpi, {options.ranks} ranks",
        "load_s": report["load_s"],
        "ttft_s": report["ttft_s"],
        "tpot_s": report["tpot_s"]["median"],
        "peak_rss_bytes": max(rank["peak_rss_bytes"] for rank in report["ranks"]),
        "token_ids": json.loads((work / "answer.jsonl").read_text())["token_ids"],
    }


def theirs(python: Path, program: str, model: Path, options: argparse.Namespace) -> dict:
    command = [*limited(options.memory), python, HERE / "baseline.py", program, model, "--keep", KEEP]
    command += ["--prompt", json.dumps(PROMPT), "--new-tokens", str(options.new_tokens)]
    finished = subprocess.run(command, stdout=subprocess.PIPE)
    return {"program": program, **(json.loads(finished.stdout) if finished.returncode == 0 else {})}


def limited(mib: int) -> Sequence[str]:
    return [str(HERE / "limited.sh"), f"{mib}M"]


def table(results: Sequence[dict]) -> Sequence[str]:
    lines = ["program              load      TTFT      TPOT  peak memory  first tokens"]
    for result in results:
        if "tpot_s" not in result:
            lines.append(f"{result['program']:16} was killed, or failed")
            continue
        times = "".join(f"{result[key]:8.2f} s" for key in ("load_s", "ttft_s", "tpot_s"))
        tokens = " ".join(map(str, result["token_ids"][:4]))
        lines.append(f"{result['program']:16} {times} {result['peak_rss_bytes'] / 2**20:8.0f} MiB  {tokens}")
    return lines


if __name__ == "__main__":
    main()
