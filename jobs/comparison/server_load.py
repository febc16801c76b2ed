"""Has several people chat with a server at once, and prints how fast it answers: one JSON line for each number of them.

    python jobs/comparison/server_load.py URL [--clients 1,4,16] [--turns 4] [--tokens 64]

Everybody asks --turns questions of the handbook, one after another, each with all that was said before, and reads the
answer as it comes; all begin at the same time, and nobody pauses. Answers are drawn at temperature 0.7, each with a
seed of its own that is the same in every run, and end after --tokens tokens, or by the model's own choice before.

tokens_per_s counts the new tokens of all, over the time from the first question to the last answer. ttft_s: seconds
from a question to the first token of its answer. tpot_s: those between two later tokens, averaged over an answer; the
median of all answers. Tokens are those that the server counts or, if it does not, the events that have text.

Cost: about clients x turns x tokens tokens. Needs nothing but Python. A conversation has to fit into the model's
context: four turns of 64 tokens take about 330 of the demo model's 512.
"""

import argparse
import json
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from programs import numbers
from served import CHAT, events, get, questions

TEMPERATURE = 0.7


@dataclass(frozen=True)
class Load:
    """What everybody asks: so many questions, with so many tokens in an answer at most."""

    turns: int
    tokens: int


@dataclass(frozen=True)
class Answer:
    """text: what was said. tokens: how many. first, last: seconds from the question to these tokens."""

    text: str
    tokens: int
    first: float
    last: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="as in http://127.0.0.1:8000")
    add_options(parser)
    options = parser.parse_args()
    for line in levels(options.url.rstrip("/"), options.clients, Load(options.turns, options.tokens)):
        print(json.dumps(line), flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what is to be asked."""
    add = parser.add_argument
    add("--clients", type=numbers, default="1,4,16", help="how many chat at once, in turn (default: 1,4,16)")
    add("--turns", type=int, default=4, help="questions of each (default: 4)")
    add("--tokens", type=int, default=64, help="of an answer, at most (default: 64)")


def levels(url: str, clients: Sequence[int], load: Load) -> Iterator[dict]:
    """What it is like for so many clients at once, after one that warms the server up."""
    model = get(url, "/v1/models")["data"][0]["id"]
    chat(url, model, Load(1, load.tokens), 0, threading.Barrier(1))
    first = 1
    for count in clients:
        yield level(url, model, load, range(first, first + count))
        first += count


def level(url: str, model: str, load: Load, clients: range) -> dict:
    """Of clients that chat at once. Nobody has asked the same before: their numbers choose questions and seeds."""
    start = threading.Barrier(len(clients))
    with ThreadPoolExecutor(len(clients)) as pool:
        began = time.perf_counter()
        chats = list(pool.map(lambda number: chat(url, model, load, number, start), clients))
        seconds = time.perf_counter() - began
    answers = [answer for each in chats for answer in each]
    tokens, firsts = sum(answer.tokens for answer in answers), [answer.first for answer in answers]
    paces = [(answer.last - answer.first) / (answer.tokens - 1) for answer in answers if answer.tokens > 1]
    return {
        "clients": len(clients),
        "answers": len(answers),
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_s": tokens / seconds,
        "ttft_s": {"median": statistics.median(firsts), "p90": ninetieth(firsts)},
        "tpot_s": statistics.median(paces) if paces else None,
    }


def ninetieth(values: Sequence[float]) -> float:
    """What nine of ten do not exceed."""
    return sorted(values)[-(-9 * len(values) // 10) - 1]


def chat(url: str, model: str, load: Load, number: int, start: threading.Barrier) -> list[Answer]:
    """One person's chat. Raises OSError or ValueError if an answer does not come whole."""
    asked, messages, answers = questions(), [], []
    start.wait()
    for turn in range(load.turns):
        place = number * load.turns + turn
        messages.append({"role": "user", "content": asked[place % len(asked)]})
        own = {"model": model, "messages": messages, "max_tokens": load.tokens, "seed": place}
        answers.append(answered(url, own))
        messages.append({"role": "assistant", "content": answers[-1].text})
    return answers


def answered(url: str, fields: dict) -> Answer:
    """Asks, and reads the answer as it comes."""
    options = {"temperature": TEMPERATURE, "stream_options": {"include_usage": True}}
    text, moments, counted = "", [], None
    began = time.perf_counter()
    for event in events(url, CHAT, **fields, **options):
        counted = event.get("usage") or counted
        if piece := content(event):
            text += piece
            moments.append(time.perf_counter() - began)
    if not moments:
        raise ValueError(f"the answer to {fields['messages'][-1]['content']!r} is empty")
    tokens = counted["completion_tokens"] if counted else len(moments)
    return Answer(text, tokens, moments[0], moments[-1])


def content(event: dict) -> str:
    """What an event adds to the answer. Raises ValueError for one that tells an error."""
    if "error" in event:
        raise ValueError(event["error"]["message"])
    return "".join(choice["delta"].get("content") or "" for choice in event["choices"])


if __name__ == "__main__":
    main()
