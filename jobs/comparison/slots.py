"""Continues prompts with llama.cpp, all of them at once, and prints how long it took as JSON.

    python jobs/comparison/slots.py MODEL.gguf --prompts "[[3, 4, 5], [4, 5, 6]]" --new-tokens 8

Every prompt has a slot, as in llama.cpp's server: first all prompts are computed, as many tokens at a time as that
server takes, then the next token of every slot in one step, until each has --new-tokens. The most likely token is
chosen. Weights are memory-mapped, and attention is computed the way llama.cpp calls flash: both are what its own
programs choose, and the second is up to 18 percent faster.

Each sequence has a cache of its own, which is up to 6 percent faster than one for all (--one-cache); but that one takes
less memory, since llama.cpp rounds the length of each cache up to 256 tokens.

decode_s are the seconds of the steps that came after the prompts, and decode_tokens what those made; generate_s are the
seconds of all, and new_tokens all that were made; steps has the seconds of every step after the prompts, and the bytes
that it read from disks. Times include the choice of tokens. Needs llama-cpp-python.

llama.cpp copies matrices of some formats into an order that suits its kernels, which takes as much memory as they have
bytes. With --mapped it leaves all where the file is mapped, so that a model may be larger than memory.
"""

import argparse
import ctypes
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import llama_cpp
import numpy as np

MOST = 2048  # tokens of a call, as llama.cpp's programs choose
ERROR = 4  # llama.cpp's level of messages


class Token(NamedTuple):
    """last: whether what follows it is wanted."""

    id: int
    position: int
    slot: int
    last: bool


class Slots:
    """A model, and room for sequences that it continues together.

    length: most tokens of a sequence. one_cache: for all, instead of one for each. mapped: whether all weights stay
        where the file is mapped.
    """

    def __init__(self, model: Path, count: int, length: int, threads: int, one_cache: bool, mapped: bool):
        settings = llama_cpp.llama_model_default_params()
        settings.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP
        settings.use_extra_bufts = not mapped
        loaded = llama_cpp.llama_model_load_from_file(str(model).encode(), settings)
        if not loaded:
            raise SystemExit(f"llama.cpp could not load {model}; its messages say why")
        self._words = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(loaded))
        self._context = self._opened(loaded, count, length, threads, one_cache)
        self._batch = llama_cpp.llama_batch_init(MOST, 0, 1)

    @staticmethod
    def _opened(loaded, count: int, length: int, threads: int, one_cache: bool):
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max, settings.n_batch = count * length, count, MOST
        settings.n_threads = settings.n_threads_batch = threads
        settings.kv_unified, settings.flash_attn_type = one_cache, llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        context = llama_cpp.llama_init_from_model(loaded, settings)
        if not context:
            raise SystemExit("llama.cpp has no room for so many sequences; its messages say why")
        return context

    def step(self, tokens: Sequence[Token]) -> list[int]:
        """The most likely tokens after those that are the last of their sequences; at most MOST tokens."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index], batch.pos[index], batch.logits[index] = token.id, token.position, token.last
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, token.slot
        if llama_cpp.llama_decode(self._context, batch) != 0:
            raise SystemExit("llama.cpp could not compute a step; its messages say why")
        count = sum(token.last for token in tokens)
        if not count:
            return []
        logits = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, shape=(count, self._words)).argmax(axis=1).tolist()


def prompt_steps(prompts: Sequence[Sequence[int]]) -> list[list[Token]]:
    """All tokens of the prompts, MOST at a time."""
    tokens = [
        Token(id, position, slot, position == len(prompt) - 1)
        for slot, prompt in enumerate(prompts)
        for position, id in enumerate(prompt)
    ]
    return [tokens[start : start + MOST] for start in range(0, len(tokens), MOST)]


def continued(slots: Slots, prompts: Sequence[Sequence[int]], count: int, given: Sequence[int]) -> dict:
    """The tokens that follow the prompts, and the seconds they took. given: what is put in place of the first ones."""
    began = time.perf_counter()
    found = [[token for step in prompt_steps(prompts) for token in slots.step(step)]]
    prompted = time.perf_counter()
    moments = [(prompted, read_bytes())]
    for done in range(count - 1):
        latest = [given[done]] * len(prompts) if done < len(given) else found[-1]
        step = [Token(id, len(prompts[slot]) + done, slot, True) for slot, id in enumerate(latest)]
        found.append(slots.step(step))
        moments.append((time.perf_counter(), read_bytes()))
    ended = time.perf_counter()
    return {
        "generate_s": ended - began,
        "new_tokens": len(prompts) * count,
        "decode_s": ended - prompted,
        "decode_tokens": len(prompts) * (count - 1),
        "steps": [(now - then, after - before) for (then, before), (now, after) in pairwise(moments)],
        "token_ids": [list(tokens) for tokens in zip(*found, strict=True)],
    }


def read_bytes() -> int:
    """That this process has had read from disks so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes:")).split()[1])


@llama_cpp.llama_log_callback
def show_error(level: int, text: bytes, _: object) -> None:
    """Passes on, of llama.cpp's messages, those of errors."""
    if level == ERROR:
        sys.stderr.write(text.decode(errors="replace"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompts", type=json.loads, required=True, help="their token ids")
    parser.add_argument("--new-tokens", type=int, default=8, help="for each prompt, at least 2 (default: 8)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--one-cache", action="store_true", help="for all sequences, instead of one for each")
    given = "token ids that follow each prompt, whatever is chosen; what would have been chosen is printed all the same"
    parser.add_argument("--given", metavar="IDS", type=json.loads, default=[], help=given)
    parser.add_argument("--mapped", action="store_true", help="copy no weights into another order")
    options = parser.parse_args()

    llama_cpp.llama_log_set(show_error, ctypes.c_void_p())
    began = time.perf_counter()
    length = max(map(len, options.prompts)) + options.new_tokens
    count, one_cache = len(options.prompts), options.one_cache
    slots = Slots(options.model, count, length, options.threads, one_cache, options.mapped)
    load = time.perf_counter() - began
    result = continued(slots, options.prompts, options.new_tokens, options.given)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"load_s": load, "peak_rss_bytes": peak, **result}))


if __name__ == "__main__":
    main()
