"""How answers are sampled, as far as a person has set it."""

from collections.abc import Mapping
from dataclasses import dataclass

from tpi_mpi.common.errors import UserError


@dataclass(frozen=True)
class _Range:
    """kind: int or float. least, most: what a value may be, both included; most may be None."""

    kind: type
    least: float
    most: float | None = None

    def __str__(self) -> str:
        what = "a whole number" if self.kind is int else "a number"
        return f"{what} from {self.least} {'up' if self.most is None else f'to {self.most}'}"

    def parse(self, text: str) -> float:
        """Raises ValueError for what is no such number."""
        value = self.kind(text)
        if not self.least <= value <= (float("inf") if self.most is None else self.most) or value == float("inf"):
            raise ValueError
        return value


RANGES = {
    "temperature": _Range(float, 0),
    "top_p": _Range(float, 0, 1),
    "top_k": _Range(int, 1),
    "seed": _Range(int, 0),
    "max_tokens": _Range(int, 1),
}
"""What can be set, by the names of the server's protocol."""


class Settings:
    """What has been set; the server decides about the rest.

    given: values as text, by name. Raises UserError for a value that is not allowed.
    """

    def __init__(self, given: Mapping[str, str | None]):
        self.values: dict[str, float] = {}
        for name, text in given.items():
            if text is not None:
                self.set(name, text)

    def set(self, name: str, text: str) -> None:
        """Sets a value. Raises UserError if there is no such name, or if the value is not allowed."""
        name = self._known(name)
        try:
            self.values[name] = RANGES[name].parse(text)
        except ValueError:
            raise UserError(f"{name} is {text!r}; {RANGES[name]} is needed") from None

    def clear(self, name: str) -> None:
        """Leaves a value to the server again. Raises UserError if there is no such name."""
        self.values.pop(self._known(name), None)

    def __str__(self) -> str:
        return ", ".join(f"{name} {self.values.get(name, 'as the server wants')}" for name in RANGES)

    @staticmethod
    def _known(name: str) -> str:
        key = name.replace("-", "_")
        if key not in RANGES:
            raise UserError(f"there is no setting {name!r}; the settings are {', '.join(RANGES)}")
        return key
