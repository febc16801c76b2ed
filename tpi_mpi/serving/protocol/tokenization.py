"""Requests for token ids."""

from pydantic import BaseModel, ConfigDict

from tpi_mpi.serving.protocol.fields import Many


class TokenizeBody(BaseModel):
    """What is to be made into token ids: a text, or a conversation as the model would be given it."""

    model_config = ConfigDict(strict=True, extra="forbid")
    model: str | None = None
    prompt: str | None = None
    messages: Many[dict] | None = None
    tools: Many[dict] | None = None
    add_special_tokens: bool = True
