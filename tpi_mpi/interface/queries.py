"""What may be asked of a model: texts, token ids, or either of them with options of its own."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from tpi_mpi.common.errors import UserError
from tpi_mpi.common.options.sampling import SAMPLING_KEYS, SamplingOptions
from tpi_mpi.engine.intake import Intake
from tpi_mpi.engine.request import Request
from tpi_mpi.tokenizer.conversation import asked

Query = str | Sequence[int] | Mapping[str, object]
"""A text; token ids; or a mapping with ``prompt`` or ``prompt_token_ids``, and any of the options of sampling."""


def requests_of(
    queries: Iterable[Query], intake: Intake, sampling: SamplingOptions, chat: bool, system: str | None
) -> Iterator[tuple[int, Request]]:
    """The requests, each with its number. Raises UserError, which names the number, for one that cannot be done.

    sampling: what a query does not set itself. chat: whether texts are questions, after the ``system`` prompt.
    """
    for index, query in enumerate(queries):
        try:
            content, own = _parts(query, sampling)
            yield index, intake.request(asked(content, system) if chat else content, own)
        except UserError as error:
            raise UserError(f"request {index}: {error}") from None


def _parts(query: Query, sampling: SamplingOptions) -> tuple[str | Sequence[int], SamplingOptions]:
    if not isinstance(query, Mapping):
        return query, sampling
    values = dict(query)
    found = [values.pop(key) for key in ("prompt", "prompt_token_ids") if key in values]
    if len(found) != 1 or isinstance(found[0], str) is not ("prompt" in query):
        raise UserError("either prompt, a text, or prompt_token_ids, whole numbers, is needed")
    if unknown := set(values).difference(SAMPLING_KEYS):
        raise UserError(f"{sorted(unknown)[0]!r} is not understood; the options are {', '.join(SAMPLING_KEYS)}")
    return found[0], sampling.override(values)
