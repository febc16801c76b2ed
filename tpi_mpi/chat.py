"""Chats with a model on this terminal, or through a pipe.

    python -m tpi_mpi.chat [--url URL] [--system TEXT]
    python -m tpi_mpi.chat SLABS --ranks N [options of tpi_mpi.serve]

Without SLABS, with a server that runs already; with them, with one that is started for this chat and ends with it.
On a terminal, /help lists what else can be typed; that needs prompt_toolkit. Otherwise every line of standard input is
a question, and standard output carries the answers alone.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from tpi_mpi.cli.parser import Parser
from tpi_mpi.cli.program import run_alone
from tpi_mpi.dialogue.options import DEFAULT_URL, KEY_VARIABLE, ChatOptions
from tpi_mpi.dialogue.settings import RANGES, Settings


def main(arguments: Sequence[str] | None = None) -> int:
    return run_alone(chat, arguments)


def chat_parser() -> Parser:
    parser = Parser(
        prog="python -m tpi_mpi.chat",
        usage="%(prog)s [SLABS --ranks N [options of tpi_mpi.serve]] [options]",
        description="Chats with a model on this terminal, or through a pipe.",
    )
    add = parser.add_argument
    slabs = "directory written by weights_tools.split, to start a server for this chat; the first of all arguments"
    add("slabs", metavar="SLABS", nargs="?", type=Path, help=slabs)
    add("--ranks", metavar="N", type=int, help="ranks of that server")
    add("--url", metavar="URL", help=f"a server that runs already (default: {DEFAULT_URL})")
    add("--api-key-file", metavar="FILE", type=Path, help=f"its API key (default: ${KEY_VARIABLE}, if set)")
    add("--system", metavar="TEXT", help="system prompt")
    add("--temperature", metavar="T", help="0 is greedy (default of this and the following: the server's)")
    add("--top-p", metavar="P", help="sample from the fewest tokens whose probabilities sum to P")
    add("--top-k", metavar="K", help="sample from the K most probable tokens")
    add("--seed", metavar="S", help="the same seed repeats an answer")
    add("--max-tokens", metavar="K", help="end an answer after K tokens")
    return parser


def chat(arguments: Sequence[str] | None = None) -> None:
    options, engine = chat_parser().parse_known_args(arguments)
    given = vars(options)
    settings = Settings({name: given.pop(name) for name in RANGES})
    chosen = ChatOptions(settings=settings, engine=tuple(engine), **given)
    from tpi_mpi.dialogue import run  # and with it what help and mistakes need not wait for

    run.chat(chosen)


if __name__ == "__main__":
    sys.exit(main())
