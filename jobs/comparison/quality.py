"""What quantization costs a model: how far its predictions move from those of float32, by format.

    python jobs/comparison/quality.py CHECKPOINT [TEXT ...] [--tokens 4096]
    python jobs/comparison/quality.py jobs/demo/handbook-3m --answers jobs/demo/handbook.md

Prints a table. Every token of the texts (default: this project's documents) is predicted from those before it in its
window of 512. KL is the mean Kullback-Leibler divergence of a format's predictions from those of float32, in nats; the
last columns say by how much the perplexity of the texts differs. Each is given for exact activations, for two planes of
int8 and for one. With --answers, the tokens are those of the answers in a handbook like the demo's, each predicted from
its question: the demo model knows nothing else.

The program's own quantization, kernels and layers are used, on one rank without MPI. The output head of int4 is int8,
as split makes it.
Cost: 4 bytes per token and word of the vocabulary, and the model in float32 twice; some minutes for SmolLM2.
Edit: FORMATS.
"""

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from passages import Passage, answers, windows
from torch import Tensor

from tpi_mpi.kernels.formats import GROUPS, Format, Plain, Tiled
from tpi_mpi.kernels.kv_cache import pages_for
from tpi_mpi.kernels.linear import Linear, open_linear
from tpi_mpi.kernels.operand import Operand, Tensors, Vector
from tpi_mpi.kernels.packing import Rows, dequantize, pack
from tpi_mpi.kernels.quantization import quantize
from tpi_mpi.model import names
from tpi_mpi.model.blocks import Block, Kind, TensorSpec, blocks_of
from tpi_mpi.model.partition import Partition
from tpi_mpi.model.transformer import ModelShard
from weights_tools.splitting.checkpoint import Checkpoint

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
FORMATS = [
    *(Format.of("int8", group) for group in GROUPS),
    *(Format.of("int4", group, zero_points) for zero_points in (False, True) for group in GROUPS),
]


class Model:
    """A whole model with its weights in memory.

    format: of the layers' matrices; None for those of the checkpoint, in float32. exact: whether matrices are
        dequantized again, so that activations need not be rounded.
    error: the squared error of the layers' matrices, by the sum of their squares.
    """

    def __init__(self, checkpoint: Checkpoint, format: Format | None, exact: bool, linear: Linear):
        self._checkpoint, self._format, self._exact = checkpoint, format, exact
        self._missed = self._squares = 0.0
        partition = Partition.of(checkpoint.config, 1)
        self._shard = ModelShard(checkpoint.config, partition, 0, "float32", linear)
        embedding = f"model.{names.weight_of(names.EMBED_TOKENS)}"
        self._embedding = self._read(embedding, 0, checkpoint.config.vocab_size)
        blocks = (block for block in blocks_of(checkpoint.config, partition) if block.kind is not Kind.EMBEDDING)
        self._weights = {
            block.name: Tensors({spec.name: self._load(block, spec) for spec in block.tensors}) for block in blocks
        }
        self.error = self._missed / self._squares if self._squares else 0.0

    def _read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows of a tensor, in float32."""
        rows = Rows.joined(list(self._checkpoint.pieces(name, start, stop)))
        return dequantize(rows, self._checkpoint.formats[name])

    def _load(self, block: Block, spec: TensorSpec) -> Operand | Vector:
        weight = self._read(spec.source, *spec.rows)
        if not spec.multiplied:
            return Vector(Plain("float32", weight.shape), weight)
        if self._format is None:
            return operand(Rows(weight), Format("float32"))
        format = head_of(self._format) if block.kind is Kind.HEAD else self._format
        rows = quantize(weight, format)
        values = dequantize(rows, format)
        if block.kind is not Kind.HEAD:
            self._missed += ((values - weight) ** 2).sum(dtype=float)
            self._squares += (weight**2).sum(dtype=float)
        return operand(Rows(values), Format("float32")) if self._exact else operand(rows, format)

    def log_probabilities(self, tokens: Tensor) -> Tensor:
        """What it expects after each of some tokens (T,), which begin a text: (T, vocab_size)."""
        hidden, count, logits = self._embedding[tokens.numpy()], len(tokens), []
        pages = np.arange(pages_for(count))[None]
        segments = self._shard.segments(pages, [0], [0], [count], [count])
        cache = self._shard.new_cache(pages.size, count)
        for block in self._shard.blocks:
            weights = self._weights[block.name]
            match block.kind:
                case Kind.ATTENTION:
                    hidden = hidden + self._shard.attention(weights, hidden, block.layer, segments, cache)
                case Kind.FEED_FORWARD:
                    hidden = hidden + self._shard.feed_forward(weights, hidden)
                case Kind.HEAD:
                    hidden = hidden if logits else self._shard.final_norm(weights, hidden)
                    logits.append(self._shard.logits(weights, hidden))
        return torch.from_numpy(np.concatenate(logits, axis=1)).log_softmax(dim=1)


def operand(rows: Rows, format: Format) -> Operand:
    layout = Tiled(format, *rows.values.shape)
    return Operand(layout, pack(rows, layout))


def head_of(format: Format) -> Format:
    """The format of the output head that goes with one of the layers."""
    return replace(format, dtype="int8", zero_points=False)


def divergence(expected: Tensor, found: Tensor) -> Tensor:
    """The KL divergence of predictions (T, vocab_size) from the expected ones, (T,)."""
    return (expected.exp() * (expected - found)).sum(1)


def table(checkpoint: Checkpoint, passages: list[Passage]) -> Iterator[str]:
    """Line by line, as Markdown."""
    expected, _ = predictions(checkpoint, passages, None, None)
    usual = perplexity(passages, expected)
    yield f"Perplexity in float32: {usual:.4f}. KL and difference: exact activations, two planes, one plane."
    yield ""
    yield "| weights | bits | squared error | KL | | | difference | | |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for format in FORMATS:
        divergences, differences = [], []
        for planes in (None, 2, 1):
            found, error = predictions(checkpoint, passages, format, planes)
            kl = torch.cat([divergence(*pair) for pair in zip(expected, found, strict=True)]).mean()
            divergences.append(f"{kl:.2e}")
            differences.append(f"{perplexity(passages, found) / usual - 1:+.3%}")
        yield f"| {format} | {bits(format):g} | {error:.2e} | {' | '.join(divergences + differences)} |"


def predictions(
    checkpoint: Checkpoint, passages: list[Passage], format: Format | None, planes: int | None
) -> tuple[list[Tensor], float]:
    """Of a model in a format, for all passages, and the error of its weights. planes: None for exact activations."""
    with open_linear(os.cpu_count() or 1, planes or 2) as linear:
        model = Model(checkpoint, format, planes is None, linear)
        return [passage.of(model.log_probabilities(passage.tokens)) for passage in passages], model.error


def perplexity(passages: list[Passage], predictions: list[Tensor]) -> float:
    pairs = zip(passages, predictions, strict=True)
    return torch.cat([passage.surprise(predicted) for passage, predicted in pairs]).mean().exp().item()


def bits(format: Format) -> float:
    """Of a weight, scales and zero points included."""
    return {"int8": 8, "int4": 4}[format.dtype] + 16 * (1 + format.zero_points) / format.group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("texts", type=Path, nargs="*", metavar="TEXT", default=TEXTS)
    parser.add_argument("--answers", type=Path, metavar="HANDBOOK", help="predict its answers instead of texts")
    parser.add_argument(
        "--tokens", type=int, default=4096, help="about how many of the texts to predict (default: 4096)"
    )
    options = parser.parse_args()

    torch.set_grad_enabled(False)
    checkpoint = Checkpoint(options.checkpoint)
    if options.answers:
        passages = answers(checkpoint, options.answers)
    else:
        passages = windows(checkpoint, options.texts, options.tokens)
    for line in table(checkpoint, passages):
        print(line, flush=True)


if __name__ == "__main__":
    main()
