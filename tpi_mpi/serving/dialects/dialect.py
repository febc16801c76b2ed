"""The families, told apart by what their chat templates mention."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tpi_mpi.serving.dialects.harmony import Harmony
from tpi_mpi.serving.dialects.hermes import Hermes
from tpi_mpi.serving.dialects.llama import Llama
from tpi_mpi.serving.dialects.plain import Plain
from tpi_mpi.serving.dialects.reader import Reader
from tpi_mpi.serving.dialects.thinking import Thinking


@dataclass(frozen=True)
class Dialect:
    """How the models of a family write.

    marked: whether special tokens are part of the text that is read, as they are spelled.
    answer: the names of the tools to a reader of answers. thinks: whether reasoning in tags may come before these.
    """

    name: str
    marked: bool
    answer: Callable[[Sequence[str]], Reader]
    thinks: bool = True

    def reader(self, tools: Sequence[str], opened: bool) -> Reader:
        """A reader for one answer.

        tools: the names of what may be called; if there are none, calls are text. opened: whether the prompt has begun
        the reasoning, as :func:`tpi_mpi.serving.dialects.thinking.opens_reasoning` tells.
        """
        if not self.thinks:
            return self.answer(tools)
        return Thinking(self.answer(tools) if tools else Plain(), opened)


_PLAIN = Dialect("plain", False, Plain)
_HERMES = Dialect("hermes", True, Hermes)
_LLAMA = Dialect("llama", True, Llama)
_HARMONY = Dialect("harmony", True, Harmony, thinks=False)

# Tags that hold no JSON although they are called the same: GLM 4 and Qwen 3 Coder.
_OTHER_TAGS = ("<arg_key>", "<function=")


def dialect_of(template: str) -> Dialect:
    """The dialect of the models that have such a chat template."""
    if "<|channel|>" in template:
        return _HARMONY
    if "<tool_call>" in template and not any(tag in template for tag in _OTHER_TAGS):
        return _HERMES
    if "<|python_tag|>" in template or ("<|start_header_id|>" in template and '"parameters":' in template):
        return _LLAMA
    return _PLAIN
