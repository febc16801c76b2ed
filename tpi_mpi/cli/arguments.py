"""The command lines of programs that run under mpirun, parsed into options."""

from collections.abc import Sequence
from pathlib import Path

from tpi_mpi.cli.groups import add_batching, add_ignore_key, add_machine, add_run, add_sampling, machine_options, parsed
from tpi_mpi.cli.parser import Parser
from tpi_mpi.common.options.machine import NO_DRAFT
from tpi_mpi.common.options.programs import BenchOptions, CheckOptions, GenerateOptions
from tpi_mpi.common.options.sampling import DEFAULT_NEW_TOKENS, SAMPLING_KEYS, SamplingOptions


def parse_generate(arguments: Sequence[str] | None) -> GenerateOptions:
    """Parses the command line of tpi_mpi.generate. Raises UserError if it makes no sense."""
    given = vars(generate_parser().parse_args(arguments))
    own = set(SAMPLING_KEYS) - {"json_schema"}  # which is a file, and only rank 0 may have it
    sampling = SamplingOptions(**{key: given.pop(key) for key in own})
    machine = machine_options(given)
    return GenerateOptions(sampling=sampling, machine=machine, **given)


def generate_parser() -> Parser:
    parser = Parser(
        prog="python -m tpi_mpi.generate",
        usage="mpirun -np N %(prog)s SLABS (--prompt TEXT | --prompts FILE) [options]",
        description="Continues prompts with a model that was split into slabs, one slab per rank.",
    )
    add = parser.add_argument
    add("slabs", metavar="SLABS", type=Path, help="directory written by weights_tools.split")
    add("--prompt", metavar="TEXT", help="one prompt; its continuation streams to standard output")
    add("--prompts", metavar="FILE.jsonl", help='one {"id": ..., "prompt": ...} per line (- for standard input)')
    add("--output", metavar="FILE.jsonl", help="one JSON object per finished request; those already there are skipped")
    add("--skip-bad", action="store_true", help="answer a line that cannot be done with an error; do the others")
    add("--chat", action="store_true", help="put each prompt into the checkpoint's chat template")
    add("--system", metavar="TEXT", help="system prompt of the chat")
    add("--logprobs", action="store_true", help="add the chosen tokens' log-probabilities to the output")
    prompt_logprobs = "add the log-probabilities of the prompt's tokens; with --max-new-tokens 0, nothing else"
    add("--prompt-logprobs", action="store_true", help=prompt_logprobs)
    top_logprobs = "add the log-probabilities of the K most probable tokens at every position"
    add("--top-logprobs", metavar="K", type=int, default=0, help=top_logprobs)
    add_sampling(parser.add_argument_group("sampling"))
    add_batching(parser.add_argument_group("many prompts"))
    add_machine(parser.add_argument_group("machine"))
    return parser


def parse_bench(arguments: Sequence[str] | None) -> BenchOptions:
    """Parses the command line of tpi_mpi.bench. Raises UserError if it makes no sense."""
    return parsed(bench_parser(), BenchOptions, arguments)


def bench_parser() -> Parser:
    parser = Parser(
        prog="python -m tpi_mpi.bench",
        usage="mpirun -np N %(prog)s SLABS [options]",
        description="Measures a run beside the lower bound that these machines and their network set for it.",
    )
    add = parser.add_argument
    add("slabs", metavar="SLABS", type=Path, help="directory written by weights_tools.split")
    add("--prompt-tokens", metavar="P", type=int, default=64, help="length of the prompt (default: 64)")
    add("--new-tokens", metavar="K", type=int, default=16, help="tokens to time after it (default: 16)")
    add_machine(parser.add_argument_group("machine"), draft=NO_DRAFT)
    return parser


def parse_check(arguments: Sequence[str] | None) -> CheckOptions:
    """Parses the command line of tpi_mpi.check. Raises UserError if it makes no sense."""
    given = vars(check_parser().parse_args(arguments))
    machine, ignored = machine_options(given), tuple(given.pop("ignore_key"))
    return CheckOptions(machine=machine, ignored_keys=ignored, **given)


def check_parser() -> Parser:
    parser = Parser(
        prog="python -m tpi_mpi.check",
        usage="mpirun -np N %(prog)s SLABS [options]",
        description="Examines all machines at once, and says what is wrong with them.",
    )
    add = parser.add_argument
    add("slabs", metavar="SLABS", type=Path, help="directory written by weights_tools.split, or a checkpoint")
    add("--prompt-tokens", metavar="P", type=int, default=64, help="length of the prompt to expect (default: 64)")
    new = f"new tokens to have room for (default: {DEFAULT_NEW_TOKENS})"
    add("--new-tokens", metavar="K", type=int, default=DEFAULT_NEW_TOKENS, help=new)
    add_run(parser)
    add_ignore_key(parser)
    add("--report", metavar="FILE.json", type=Path, help="write what was found, for weights_tools.split --ratios-from")
    return parser
