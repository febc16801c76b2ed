"""What quantization costs a model: how far its predictions move from those of float32, by format.

    python jobs/comparison/quality.py CHECKPOINT [TEXT ...] [--tokens 4096]
    python jobs/comparison/quality.py jobs/demo/handbook-3m --answers jobs/demo/handbook.md

Prints a table. Every token of the texts (default: this project's documents) is predicted from those before it in its
window of 512. KL is the mean Kullback-Leibler divergence of a format's predictions from those of float32, in nats;
perplexity is that of the texts. With --answers, the tokens are those of the answers in a handbook like the demo's, each
predicted from its question: the demo model knows nothing else.

The program's own quantization, layers and head are used, on one rank without MPI, and with exact activations. The
output head of int4 is int8, as split makes it.
Cost: 4 bytes per token and word of the vocabulary, and the model in float32 twice; a few minutes for SmolLM2.
Edit: FORMATS.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from tpi_mpi.kernels.formats import Format
from tpi_mpi.kernels.packing import dequantize
from tpi_mpi.kernels.quantization import quantize
from tpi_mpi.model import names
from tpi_mpi.model.blocks import Block, Kind, TensorSpec, blocks_of
from tpi_mpi.model.partition import Partition
from tpi_mpi.model.transformer import ModelShard
from tpi_mpi.tokenizer.chat_template import render_chat
from tpi_mpi.tokenizer.tokenizer import Tokenizer
from weights_tools.splitting.checkpoint import Checkpoint

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
WINDOW = 512
GROUPS = (32, 64, 128)
FORMATS = [
    *(Format.of("int8", group) for group in GROUPS),
    *(Format.of("int4", group, zero_points) for zero_points in (False, True) for group in GROUPS),
]


class Model:
    """A whole model with its weights in memory, quantized to a format and back; None for those of the checkpoint.

    error: the squared error of the quantized weights, by the sum of their squares.
    """

    def __init__(self, checkpoint: Checkpoint, format: Format | None):
        self._checkpoint, self._format = checkpoint, format
        self._missed = self._squares = 0.0
        partition = Partition.of(checkpoint.config, 1)
        self._shard = ModelShard(checkpoint.config, partition, 0, "float32")
        self._embedding = self._read(f"model.{names.weight_of(names.EMBED_TOKENS)}", 0, checkpoint.config.vocab_size)
        blocks = (block for block in blocks_of(checkpoint.config, partition) if block.kind is not Kind.EMBEDDING)
        self._weights = {block.name: {spec.name: self._load(block, spec) for spec in block.tensors} for block in blocks}
        self.error = self._missed / max(self._squares, 1e-30)

    def _read(self, name: str, start: int, stop: int) -> Tensor:
        """Rows of a tensor, in float32."""
        return torch.cat([piece.float() for piece in self._checkpoint.pieces(name, start, stop)])

    def _load(self, block: Block, spec: TensorSpec) -> Tensor:
        weight = self._read(spec.source, *spec.rows)
        if spec.width is None or self._format is None:
            return weight
        stored = self._stored(weight, head_of(self._format) if block.kind is Kind.HEAD else self._format)
        if block.kind is not Kind.HEAD:
            self._missed += (stored - weight).double().pow(2).sum().item()
            self._squares += weight.double().pow(2).sum().item()
        return stored

    @staticmethod
    def _stored(weight: Tensor, format: Format) -> Tensor:
        return torch.from_numpy(dequantize(quantize(weight.numpy(), format), format))

    def log_probabilities(self, tokens: Tensor) -> Tensor:
        """What it expects after each of some tokens (T,), which begin a text: (T, vocab_size)."""
        hidden, count, logits = self._embedding[tokens], len(tokens), []
        span, cache = self._shard.span(0, count, count), self._shard.new_cache(count)
        for block in self._shard.blocks:
            weights = self._weights[block.name]
            match block.kind:
                case Kind.ATTENTION:
                    hidden = hidden + self._shard.attention(weights, hidden, block.layer, span, cache)
                case Kind.FEED_FORWARD:
                    hidden = hidden + self._shard.feed_forward(weights, hidden)
                case Kind.HEAD:
                    hidden = hidden if logits else self._shard.final_norm(weights, hidden)
                    logits.append(self._shard.logits(weights, hidden))
        return torch.cat(logits, dim=1).log_softmax(dim=1)


def head_of(format: Format) -> Format:
    """The format of the output head that goes with one of the layers."""
    return replace(format, dtype="int8", zero_points=False)


@dataclass(frozen=True)
class Passage:
    """Token ids (T,), of which those from ``first`` on are to be predicted."""

    tokens: Tensor
    first: int = 1

    def predictions(self, model: Model) -> Tensor:
        """What the model expects in their places: logarithms of probabilities, (T - first, vocab_size)."""
        return model.log_probabilities(self.tokens)[self.first - 1 : -1]

    def surprise(self, predictions: Tensor) -> Tensor:
        """Minus the logarithm of the probability that each of them was given."""
        return -predictions.gather(1, self.tokens[self.first :, None])[:, 0]


def windows(checkpoint: Checkpoint, texts: list[Path], tokens: int) -> list[Passage]:
    """Windows of texts, spread evenly over them."""
    text = "\n\n".join(path.read_text(encoding="utf-8") for path in texts)
    ids = torch.tensor(Tokenizer.load(checkpoint.directory).encode(text, whole=False))
    every = ids.split(min(WINDOW, checkpoint.config.max_position_embeddings))
    wanted = min(len(every), max(1, tokens // WINDOW))
    return [Passage(every[index * len(every) // wanted]) for index in range(wanted)]


def answers(checkpoint: Checkpoint, handbook: Path) -> list[Passage]:
    """Each answer of a handbook after each of its questions."""
    tokenizer, found = Tokenizer.load(checkpoint.directory), []
    for section in handbook.read_text(encoding="utf-8").split("\n## ")[1:]:
        questions, answer = section.strip().split("\n\n", 1)
        for question in questions.splitlines():
            asked = tokenizer.encode(render_chat(tokenizer, question.removeprefix("- ")), whole=False)
            answered = tokenizer.encode(" ".join(answer.split()), whole=False)
            found.append(Passage(torch.tensor(asked + answered), len(asked)))
    return found


def divergence(expected: Tensor, found: Tensor) -> Tensor:
    """The KL divergence of predictions (T, vocab_size) from the expected ones, (T,)."""
    return (expected.exp() * (expected - found)).sum(1)


def table(checkpoint: Checkpoint, passages: list[Passage]) -> Iterator[str]:
    """Line by line, as Markdown."""
    exact = Model(checkpoint, None)
    expected = [passage.predictions(exact) for passage in passages]
    usual = perplexity(passages, expected)
    yield "| weights | bits | squared error | KL | perplexity | difference |"
    yield "|---|---|---|---|---|---|"
    yield f"| float32 | 32 | | | {usual:.4f} | |"
    for format in FORMATS:
        model = Model(checkpoint, format)
        found = [passage.predictions(model) for passage in passages]
        kl = torch.cat([divergence(*pair) for pair in zip(expected, found, strict=True)]).mean()
        own = perplexity(passages, found)
        change = f"{own / usual - 1:+.3%}"
        yield f"| {format} | {bits(format):g} | {model.error:.2e} | {kl:.2e} | {own:.4f} | {change} |"


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
