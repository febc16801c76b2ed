"""What was said so far, and by whom: messages as in OpenAI's protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Conversation:
    """Messages to which a model is to add the next.

    messages: each with ``role``, ``content``, and whatever else it has, such as ``tool_calls`` or ``tool_call_id``.
    tools: what the model may call, each ``{"type": "function", "function": {...}}``.
    options: other variables of the checkpoint's chat template, such as ``enable_thinking``.
    """

    messages: tuple[Mapping[str, object], ...]
    tools: tuple[Mapping[str, object], ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, prompt: str, system: str | None = None) -> "Conversation":
        """One question, after a system prompt if there is one."""
        before = () if system is None else ({"role": "system", "content": system},)
        return cls((*before, {"role": "user", "content": prompt}))


def asked(content: str | Sequence[int], system: str | None) -> Conversation | Sequence[int]:
    """A text as a question; token ids as they are."""
    return Conversation.of(content, system) if isinstance(content, str) else content
