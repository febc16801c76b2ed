"""Continues prompts with another program, one after another, and prints how long it took as JSON.

    python jobs/comparison/baseline.py llama.cpp MODEL.gguf --prompts "[[3, 4, 5], [4, 5, 6]]" --new-tokens 8
    python jobs/comparison/baseline.py transformers CHECKPOINT ...
    python jobs/comparison/baseline.py accelerate CHECKPOINT --keep 1GiB ...

llama.cpp maps the weights, transformers loads them as it does by default, Accelerate leaves all but --keep of them on
disk. Times are medians, of the prompts' first tokens and of all later ones, and include the choice of the most likely
token. Needs llama-cpp-python, or transformers and accelerate.
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
# Begins a new sequence.
Begin = Callable[[], Step]


def llama_cpp(options: argparse.Namespace) -> Begin:
    import llama_cpp
    import numpy as np

    context = max(map(len, options.prompts)) + options.new_tokens
    settings = {"n_threads": options.threads, "n_threads_batch": options.threads, "n_ctx": context, "n_batch": context}
    settings["flash_attn"] = True  # as llama.cpp's own programs choose; it is a little faster
    model = llama_cpp.Llama(str(options.model), use_mmap=True, verbose=False, **settings)

    def step(tokens: Sequence[int]) -> int:
        model.eval(tokens)
        logits = llama_cpp.llama_get_logits(model.ctx)  # of the last token; model.sample() takes 0.3 ms more
        return int(np.ctypeslib.as_array(logits, shape=(model.n_vocab(),)).argmax())

    def begin() -> Step:
        model.reset()
        return step

    return begin


def transformers(options: argparse.Namespace, **placement) -> Begin:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype="auto", **placement)

    def begin() -> Step:
        cache = None

        def step(tokens: Sequence[int]) -> int:
            nonlocal cache
            out = model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = out.past_key_values
            return int(out.logits[0, -1].argmax())

        return step

    return begin


def accelerate(options: argparse.Namespace) -> Begin:
    folder = options.model.parent / "offload"
    return transformers(options, device_map="auto", max_memory={"cpu": options.keep}, offload_folder=folder)


PROGRAMS = {"llama.cpp": llama_cpp, "transformers": transformers, "accelerate": accelerate}


def continuation(step: Step, prompt: Sequence[int], count: int) -> tuple[list[int], list[float]]:
    """The tokens that follow a prompt, and the seconds that each took."""
    tokens, new, seconds = prompt, [], []
    for _ in range(count):
        began = time.perf_counter()
        tokens = [step(tokens)]
        seconds.append(time.perf_counter() - began)
        new += tokens
    return new, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompts", type=json.loads, required=True, help="their token ids")
    parser.add_argument("--new-tokens", type=int, default=8, help="for each prompt, at least 2 (default: 8)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--keep", default="1GiB", help="weights that Accelerate keeps in memory, as in 1GiB")
    options = parser.parse_args()

    began = time.perf_counter()
    begin = PROGRAMS[options.program](options)
    load = time.perf_counter() - began
    found = [continuation(begin(), prompt, options.new_tokens) for prompt in options.prompts]
    result = {
        "load_s": load,
        "ttft_s": statistics.median(seconds[0] for _, seconds in found),
        "tpot_s": statistics.median(time for _, seconds in found for time in seconds[1:]),
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "token_ids": [tokens for tokens, _ in found],
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
