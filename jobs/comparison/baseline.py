"""Continues one prompt with another program, and prints how long it took as JSON.

    python jobs/comparison/baseline.py llama.cpp MODEL.gguf --prompt "[3, 4, 5]" --new-tokens 8
    python jobs/comparison/baseline.py transformers CHECKPOINT ...
    python jobs/comparison/baseline.py accelerate CHECKPOINT --keep 1GiB ...

llama.cpp maps the weights, transformers loads them as it does by default, Accelerate leaves all but --keep of them on
disk. The model's files are dropped from the page cache first. Needs llama-cpp-python, or transformers and accelerate.
"""

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# From the whole prompt, or the token that came last, to the most likely next token.
Step = Callable[[Sequence[int]], int]


def llama_cpp(options: argparse.Namespace) -> Step:
    import llama_cpp

    context = len(options.prompt) + options.new_tokens
    threads = {"n_threads": options.threads, "n_threads_batch": options.threads}
    model = llama_cpp.Llama(str(options.model), n_ctx=context, n_batch=context, use_mmap=True, verbose=False, **threads)

    def step(tokens: Sequence[int]) -> int:
        model.eval(tokens)
        return int(model.sample(temp=0.0))

    return step


def transformers(options: argparse.Namespace, **placement) -> Step:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype="auto", **placement)
    cache = None

    def step(tokens: Sequence[int]) -> int:
        nonlocal cache
        out = model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        return int(out.logits[0, -1].argmax())

    return step


def accelerate(options: argparse.Namespace) -> Step:
    folder = options.model.parent / "offload"
    return transformers(options, device_map="auto", max_memory={"cpu": options.keep}, offload_folder=folder)


PROGRAMS = {"llama.cpp": llama_cpp, "transformers": transformers, "accelerate": accelerate}


def drop_from_page_cache(model: Path) -> None:
    for path in [model] if model.is_file() else model.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompt", type=json.loads, required=True, help="its token ids")
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--keep", default="1GiB", help="weights that Accelerate keeps in memory, as in 1GiB")
    options = parser.parse_args()

    drop_from_page_cache(options.model)
    began = time.perf_counter()
    step = PROGRAMS[options.program](options)
    load = time.perf_counter() - began
    tokens, new, seconds = options.prompt, [], []
    for _ in range(options.new_tokens):
        began = time.perf_counter()
        tokens = [step(tokens)]
        seconds.append(time.perf_counter() - began)
        new += tokens
    result = {
        "load_s": load,
        "ttft_s": seconds[0],
        "tpot_s": statistics.median(seconds[1:]),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "token_ids": new,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
