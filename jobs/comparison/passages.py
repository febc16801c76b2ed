"""What a model is to predict: token ids of texts, or of answers to questions."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tpi_mpi.tokenizer.chat_template import render_chat
from tpi_mpi.tokenizer.conversation import Conversation
from tpi_mpi.tokenizer.tokenizer import Tokenizer
from weights_tools.splitting.checkpoint import Checkpoint

WINDOW = 512


@dataclass(frozen=True)
class Passage:
    """Token ids (T,), of which those from ``first`` on are to be predicted."""

    tokens: Tensor
    first: int = 1

    def of(self, predictions: Tensor) -> Tensor:
        """The predictions of these tokens, (T - first, V), among those that follow each of all tokens, (T, V)."""
        return predictions[self.first - 1 : -1]

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
            conversation = Conversation.of(question.removeprefix("- "))
            asked = tokenizer.encode(render_chat(tokenizer, conversation), whole=False)
            answered = tokenizer.encode(" ".join(answer.split()), whole=False)
            found.append(Passage(torch.tensor(asked + answered), len(asked)))
    return found
