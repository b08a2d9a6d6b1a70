"""The DND exceptions of a study, as one list that many cases look into."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onboarding.fields import compact_json
from onboarding.identifiers import normalise_id
from onboarding.request import normalised_dnd_exception
from onboarding.vendors.wire import Unreadable


@dataclass(frozen=True, slots=True)
class DndException:
    """A listed exception.

    Attributes:
        id: ``dndExceptionId``, 32 upper-case hexadecimal digits.
        content: as ``onboarding.request.normalised_dnd_exception`` gives it, so that equal means the same.
    """

    id: str
    content: dict[str, Any]


class ExceptionList:
    """All exceptions of a study and mode at one moment; looking for one costs the same however many there are."""

    def __init__(self, entries: Iterable[DndException]) -> None:
        self._entries = tuple(entries)
        self._ids = frozenset(entry.id for entry in self._entries)
        self._by_content: dict[str, list[str]] = {}
        for entry in self._entries:
            self._by_content.setdefault(_spelt(entry.content), []).append(entry.id)

    def __len__(self) -> int:
        """How many there are."""
        return len(self._entries)

    def __iter__(self) -> Iterator[DndException]:
        """The entries, as they were listed."""
        return iter(self._entries)

    @property
    def ids(self) -> frozenset[str]:
        """The ids of all."""
        return self._ids

    def equal_to(self, content: Mapping[str, Any]) -> list[str]:
        """The ids of those with this normalised content, lowest first."""
        return sorted(self._by_content.get(_spelt(content), []))


def _spelt(content: Mapping[str, Any]) -> str:
    return compact_json(dict(content))


def read_exceptions(content: object) -> list[DndException]:
    """The entries of a list; raises ``Unreadable`` if one of them, or the whole, is something else."""
    entries = content.get("dndExceptions") if isinstance(content, Mapping) else None
    if not isinstance(entries, list):
        raise Unreadable("a list of exceptions is an object with dndExceptions")
    return [_exception(entry) for entry in entries]


def _exception(entry: object) -> DndException:
    if not isinstance(entry, Mapping):
        raise Unreadable("an exception is an object")
    return DndException(_exception_id(entry.get("dndExceptionId")), normalised_dnd_exception(entry))


def read_created_id(content: object) -> str | None:
    """The id in the answer to a new exception, or None if the answer has none; raises ``Unreadable``."""
    if content is None:
        return None
    if not isinstance(content, Mapping):
        raise Unreadable("the answer to a new exception is an object")
    return None if content.get("id") is None else _exception_id(content["id"])


def _exception_id(value: object) -> str:
    try:
        return normalise_id(value if isinstance(value, str) else "")
    except ValueError:
        raise Unreadable("an exception's id is not 32 hexadecimal digits") from None
