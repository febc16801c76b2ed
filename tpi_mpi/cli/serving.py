"""The command lines of a server and of its engine."""

from collections.abc import Sequence
from pathlib import Path

from tpi_mpi.cli.groups import add_batching, add_machine, parsed
from tpi_mpi.cli.parser import Parser
from tpi_mpi.common.options.programs import BackendOptions, ServeOptions


def parse_backend(arguments: Sequence[str] | None) -> BackendOptions:
    """Parses the command line of tpi_mpi.backend. Raises UserError if it makes no sense."""
    return parsed(backend_parser(), BackendOptions, arguments)


def backend_parser() -> Parser:
    parser = Parser(
        prog="python -m tpi_mpi.backend",
        usage="mpirun -np N %(prog)s SLABS --socket PATH [options]",
        description="The engine of a server, which starts it and tells it what to continue.",
    )
    _add_slabs(parser)
    parser.add_argument("--socket", metavar="PATH", required=True, help="where the server listens for it")
    _add_engine(parser)
    return parser


def _add_slabs(parser: Parser) -> None:
    parser.add_argument("slabs", metavar="SLABS", type=Path, help="directory written by weights_tools.split")


def _add_engine(parser: Parser) -> None:
    """Adds what a server passes on to its engine."""
    many = parser.add_argument_group("many requests")
    longest = "positions of the longest sequence (default: 4096, or the model's context)"
    many.add_argument("--longest", metavar="N", type=int, help=longest)
    grammar = "set memory aside for answers that follow JSON schemas: 1.3 KiB a token; needs llguidance"
    many.add_argument("--grammar", action="store_true", help=grammar)
    add_batching(many)
    add_machine(parser.add_argument_group("machine"), files=False)


def parse_serve(arguments: Sequence[str] | None) -> ServeOptions:
    """Parses the command line of tpi_mpi.serve. Raises UserError if it makes no sense, also to its engine."""
    serve_parser().parse_args(arguments)  # complains of what neither of the two knows
    own = Parser(add_help=False)
    _add_serve(own)
    given, command = own.parse_known_args(arguments)
    engine = parse_backend([*command, "--socket", ""])
    values = {**vars(given), "cors": tuple(given.cors)}
    return ServeOptions(engine, tuple(command), **values)


def serve_parser() -> Parser:
    parser = Parser(
        prog="python -m tpi_mpi.serve",
        usage="%(prog)s SLABS --ranks N [--hostfile FILE] [options]",
        description="Answers requests of OpenAI's protocol, and shows a page to chat on. Starts mpirun by itself.",
    )
    _add_slabs(parser)
    _add_serve(parser)
    _add_engine(parser)
    return parser


def _add_serve(parser: Parser) -> None:
    add = parser.add_argument
    add("--ranks", metavar="N", type=int, required=True, help="how many ranks to start, as many as there are slabs")
    add("--hostfile", metavar="FILE", type=Path, help="mpirun's hostfile; its first host must be this machine")
    add(
        "--mpirun", metavar="COMMAND", help='what starts the ranks, as in "mpirun --mca btl tcp,self" (default: mpirun)'
    )
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine alone)")
    add("--port", type=int, default=8000, help="port to listen on; 0 for any that is free (default: 8000)")
    add("--ready-file", metavar="FILE", type=Path, help="write the server's URL there as soon as it listens")
    keys = "file with the API keys of clients, one a line; needed on any other address than this machine's own"
    add("--api-key-file", metavar="FILE", type=Path, help=keys)
    add("--no-api-key", action="store_true", help="let everybody in who can reach the address")
    cors = "let web pages of this origin use the server; may be given several times"
    add("--cors", metavar="ORIGIN", action="append", default=[], help=cors)
    add("--model-name", metavar="NAME", help="what clients call the model (default: the checkpoint's name)")
    add("--queue", metavar="N", type=int, default=64, help="sequences that may wait, at most (default: 64)")
    drain = "time for requests that are under way when the server is told to end (default: 30)"
    add("--drain", metavar="SECONDS", type=float, default=30.0, help=drain)
    restarts = "how often in a row to start the engine again when it is lost (default: 5)"
    add("--restarts", metavar="N", type=int, default=5, help=restarts)
    add("--log-prompts", action="store_true", help="write prompts to the log, which otherwise has only their lengths")
