"""The description of a directory of slabs, for people."""

from collections import Counter
from collections.abc import Iterator

from tpi_mpi.common.units import format_size

# What of the model each rank has a range of: the title of the column, the key, and its width.
_RANGES = (("heads", "heads", 9), ("kv heads", "kv_heads", 9), ("columns", "columns", 13), ("shared", "shared", 11))


def table(what: dict) -> str:
    """The description as a table that people read; behind it, that of a draft."""
    lines = [
        f"{what['model']}: {what['model_type']}, {what['layers']} layers, hidden size {what['hidden_size']}, "
        f"vocabulary {what['vocab_size']}, {_formats(what)}, digest {what['source_digest'][:16]}",
        *_ranks(what),
    ]
    if "draft" in what:
        draft = what["draft"]
        lines += [f"draft: {_formats(draft)}", *_ranks(draft)] if draft else ["draft: not complete; split again"]
    return "\n".join(lines)


def _ranks(what: dict) -> Iterator[str]:
    ranges = [column for column in _RANGES if column[1] in what["ranks"][0]]
    titles = "  ".join(f"{title:>{width}}" for title, _, width in ranges)
    yield f"{'rank':>4}  {titles}  {'bytes':>12}  blocks"
    for rank in what["ranks"]:
        shown = "  ".join(f"{_range(rank[key]):>{width}}" for _, key, width in ranges)
        yield f"{rank['rank']:>4}  {shown}  {format_size(rank['bytes']):>12}  {_blocks(rank)}"


def _range(bounds: tuple[int, int] | None) -> str:
    return f"{bounds[0]}-{bounds[1] - 1}" if bounds else "-"


def _formats(what: dict) -> str:
    """``bfloat16`` or, if not everything is stored alike, ``int4 (layers int4 by 32, head int8 by 32, ...)``."""
    formats = what["formats"]
    if set(formats.values()) == {what["dtype"]}:
        return what["dtype"]
    return f"{what['dtype']} ({', '.join(f'{part} {format}' for part, format in formats.items())})"


def _blocks(rank: dict) -> str:
    """How many blocks of each kind and size: ``22 attention of 5.00 MiB, ..., 48 x 128 experts of 1.12 MiB``."""
    kinds = Counter((_kind(name), format_size(size)) for name, size in rank["blocks"].items())
    phrases = [f"{count} {kind} of {size}" for (kind, size), count in kinds.items()]
    if experts := rank.get("experts"):
        sizes = " to ".join(dict.fromkeys(map(format_size, experts["bytes"])))
        phrases.append(f"{len(experts['layers'])} x {experts['number']} experts of {sizes}")
    return ", ".join(phrases)


def _kind(name: str) -> str:
    return name.split(".")[-1] if name.startswith("layers.") else name.split(".")[0]
