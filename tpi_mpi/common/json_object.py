"""A JSON object from outside the program: every value is checked as it is read."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from tpi_mpi.common.errors import UserError


class JsonObject:
    """One object, and where it is from: every error message begins with that.

    A value that is not what the accessor promises raises UserError.
    """

    def __init__(self, values: Mapping[str, object], origin: str):
        self.values = values
        self.origin = origin

    @classmethod
    def load(cls, path: Path) -> "JsonObject":
        """Reads a file. Raises UserError if it is missing or holds anything but a JSON object."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; copy it there") from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} cannot be read as JSON: {error}") from None
        if not isinstance(values, dict):
            raise UserError(f"{path} is not a JSON object")
        return cls(values, str(path))

    def refuse(self, complaint: str) -> NoReturn:
        """Raises UserError with the origin and the complaint."""
        raise UserError(f"{self.origin} {complaint}")

    def get(self, key: str) -> object:
        """The value as it is, unchecked, or None."""
        return self.values.get(key)

    def positive(self, key: str) -> int:
        return self._whole(key, 1, "a positive whole number")

    def whole(self, key: str) -> int:
        """Zero or more."""
        return self._whole(key, 0, "a whole number")

    def _whole(self, key: str, least: int, what: str) -> int:
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            self.refuse(f"has {key} = {shorten(value)}; {what} is needed")
        return value

    def number(self, key: str) -> float:
        return self._number(key, self.get(key))

    def numbers(self, key: str, length: int) -> tuple[float, ...]:
        value = self.get(key)
        if not isinstance(value, list) or len(value) != length:
            self.refuse(f"has {key} = {shorten(value)}; a list of {length} numbers is needed")
        return tuple(self._number(key, item) for item in value)

    def _number(self, key: str, value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            self.refuse(f"has {key} = {shorten(value)}; a positive number is needed")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.get(key)
        if not isinstance(value, bool):
            self.refuse(f"has {key} = {shorten(value)}; true or false is needed")
        return value

    def choice(self, key: str, choices: Iterable[str]) -> str:
        """A string that is one of the choices."""
        value = self.get(key)
        if not isinstance(value, str) or value not in choices:
            self.refuse(f"has {key} {shorten(value)}; the supported ones are {', '.join(choices)}")
        return value

    def object(self, key: str) -> dict[str, object]:
        """A nested object; empty if absent."""
        value = self.get(key)
        if value is not None and not isinstance(value, dict):
            self.refuse(f"has {key} = {shorten(value)}; an object is needed")
        return dict(value or {})

    def token_ids(self, key: str) -> tuple[int, ...]:
        """One token id or a list of them, as a tuple; empty if absent."""
        value = self.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in ids):
            self.refuse(f"has {key} = {shorten(value)}; one token id or a list of them is needed")
        return tuple(ids)


def shorten(value: object) -> str:
    """A value as a message shows it, in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
