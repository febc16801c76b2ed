"""Continues prompts of several kinds with and without drafts, and prints what that took by kind of prompt as JSON.

    mpirun -np 2 python jobs/comparison/speculation.py SLABS [PROMPTS.jsonl] [--drafts none lookup self lookup,self]

The text must be the same whatever drafts: else the program fails. The kind of a prompt is what its id begins with; the
default are the prompts beside this file, put into the checkpoint's chat template. SLABS must have been split with
--with-draft int4 where ``self`` is asked for.

With --sweep-seconds, a sweep takes at least so long, as if the disk were slow: what drafts are accepted, and how long
ones are worth it, is then what a model would see that is too large for the machines. With --temperature, tokens are
drawn.

Cost: with SmolLM2-135M-Instruct, some minutes for each of the drafts.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tpi_mpi.cli.program import open_slab
from tpi_mpi.comm.affinity import Cores
from tpi_mpi.comm.world import World, start_mpi
from tpi_mpi.common.options.machine import MachineOptions
from tpi_mpi.common.options.sampling import SamplingOptions
from tpi_mpi.common.units import parse_size
from tpi_mpi.engine.demand import Demand
from tpi_mpi.engine.engine import Engine
from tpi_mpi.engine.generation import Generation
from tpi_mpi.engine.intake import Intake
from tpi_mpi.engine.report import Latencies, Throughput
from tpi_mpi.engine.request import Request
from tpi_mpi.tokenizer.conversation import Conversation

PROMPTS = Path(__file__).with_name("speculation_prompts.jsonl")


class Slow(Engine):
    """An engine whose sweeps take at least some seconds."""

    seconds = 0.0

    def _sweep(self, step, hidden, readout):
        began = time.perf_counter()
        super()._sweep(step, hidden, readout)
        if not step.draft:
            time.sleep(max(0.0, self.seconds - (time.perf_counter() - began)))


def main() -> None:
    options = parsed()
    with start_mpi() as world:
        machine = [machine_options(options, draft) for draft in options.drafts]
        with world.watched(machine[0].deadline):
            found = {draft: measured(world, options, own) for draft, own in zip(options.drafts, machine, strict=True)}
    if not world.is_root:
        return
    (first, said), *others = [(draft, texts) for draft, (_, texts) in found.items()]
    for draft, texts in others:
        assert texts == said, f"with --draft {draft} the text is another than with {first}"
    print(json.dumps({draft: table for draft, (table, _) in found.items()}, indent=2))


def measured(world: World, options: argparse.Namespace, machine: MachineOptions) -> tuple[dict, dict]:
    """On rank 0: figures by kind of prompt, and the tokens of every prompt; on all ranks together."""
    slab, cores = open_slab(world, options.slabs), Cores(world)
    intake = Intake(options.slabs, slab.config)
    wanted = list(requests(options, intake))
    longest = max(request.length for _, request in wanted)
    demand = Demand(longest, len(wanted), sum(request.length for _, request in wanted))
    tables, said = {}, {}
    with Slow(world, cores, slab, machine, demand, shown=False) as engine:
        engine.seconds = options.sweep_seconds
        if world.is_root:
            kinds = defaultdict(list)
            for id, request in wanted:
                kinds[id.split("-")[0]].append((id, request))
            for kind, some in kinds.items():
                tables[kind] = table(engine, intake, some, said)
        engine.follow_to_the_end()
    return tables, said


def requests(options: argparse.Namespace, intake: Intake) -> Iterator[tuple[str, Request]]:
    """The prompts, with their ids."""
    for index, line in enumerate(options.prompts.read_text().splitlines()):
        prompt = json.loads(line)
        if options.kinds and prompt["id"].split("-")[0] not in options.kinds:
            continue
        sampling = SamplingOptions(options.new_tokens, temperature=options.temperature, seed=index)
        yield prompt["id"], intake.request(Conversation.of(prompt["prompt"]), sampling)


def table(engine: Engine, intake: Intake, wanted: list[tuple[str, Request]], said: dict) -> dict:
    """What prompts of one kind take; the tokens of each are added to ``said``."""
    throughput, latencies = engine.leader.throughput, Latencies()
    before, began = counts(throughput), time.perf_counter()
    generation = Generation(engine.leader, intake, latencies)
    for answers in generation.sweeps(iter(wanted)):
        for answer in answers:
            said[answer.key] = [token.id for token in answer.completion.tokens]
    seconds, after = time.perf_counter() - began, counts(throughput)
    own = {name: after[name] - before.get(name, 0) for name in after}
    return {
        "tokens": own["turn_tokens"],
        "tokens_per_sweep": round(own["turn_tokens"] / max(1, own["turns"]), 3),
        "seconds_per_token": round(own["decode_seconds"] / max(1, own["decode_tokens"]), 4),
        "seconds": round(seconds, 2),
        **{name: value for name, value in own.items() if name.startswith(("drafted", "accepted"))},
    }


def counts(throughput: Throughput) -> dict[str, float]:
    """What has been counted so far."""
    names = "turns", "turn_tokens", "decode_seconds", "decode_tokens"
    found = {name: getattr(throughput, name) for name in names}
    for kind, own in throughput.drafts.items():
        found |= {f"drafted by {kind}": own.drafted, f"accepted by {kind}": own.accepted}
    return found


def machine_options(options: argparse.Namespace, draft: str) -> MachineOptions:
    return MachineOptions(memory=options.memory, window=options.window, batch=options.batch, draft=draft)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("slabs", type=Path)
    add("prompts", type=Path, nargs="?", default=PROMPTS)
    add("--drafts", nargs="+", default=["none", "lookup", "self", "lookup,self"])
    add("--kinds", nargs="+", help="only prompts of these kinds")
    add("--new-tokens", type=int, default=128)
    add("--temperature", type=float, default=0.0)
    add("--sweep-seconds", type=float, default=0.0)
    add("--batch", type=int, default=1)
    add("--memory", type=parse_size)
    add("--window", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    main()
