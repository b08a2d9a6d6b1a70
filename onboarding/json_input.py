"""Strict reading of one JSON object: what JSON parsers let pass in silence is refused here, with its place.

Refused are repeated keys, NaN and Infinity, numbers beyond range, NUL characters, lone surrogates, and anything too
large or nested too deep. Messages name the place and never repeat a value.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final

from onboarding.errors import BadInput

MAX_BYTES: Final = 512 * 1024
MAX_DEPTH: Final = 32
MAX_PROBLEMS: Final = 100
_MAX_DIGITS: Final = 20
_MAX_SHOWN_KEY: Final = 60

# A string, closed or not, or a bracket. Brackets inside strings do not nest; the scan stays linear on any input.
_STRING_OR_BRACKET: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{\]}]', re.DOTALL)
_PLAIN_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_UNUSABLE_CHARACTER: Final = re.compile("[\0\ud800-\udfff]")

_KINDS: Final[tuple[tuple[type | tuple[type, ...], str], ...]] = (
    (type(None), "null"),
    (bool, "true or false"),
    ((int, float), "a number"),
    (str, "text"),
    (Mapping, "an object"),
    ((list, tuple), "a list"),
)


def kind_of(value: object) -> str:
    """What a JSON value is, in plain words."""
    return next((words for types, words in _KINDS if isinstance(value, types)), "something that JSON does not have")


def show_path(path: Iterable[str | int]) -> str:
    """A place in the input, such as ``dnd_exception.visit_dnd[0].dnd``; ``request`` for the whole.

    Keys that are no plain words are shown as JSON text in ASCII, long ones cut.
    """
    shown = ""
    for step in path:
        if isinstance(step, int):
            shown += f"[{step}]"
            continue
        key = step if len(step) <= _MAX_SHOWN_KEY else step[:_MAX_SHOWN_KEY] + "..."
        shown += ("." if shown else "") + (key if _PLAIN_KEY.fullmatch(step) else json.dumps(key))
    return shown or "request"


def cut_problems(count: int, problems: Iterable[str]) -> list[str]:
    """The first hundred of ``count`` problems, and how many more there are; the rest is not even worded."""
    shown = list(islice(problems, MAX_PROBLEMS))
    return [*shown, f"... and {count - len(shown)} more problems"] if count > len(shown) else shown


def read_object(source: str | bytes | Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object that ``source`` holds or is, made of plain dicts, lists, text, numbers, booleans and None.

    Raises:
        BadInput: it is no such object, with one line per problem.
    """
    parsed = source if isinstance(source, Mapping) else _parse(source)
    if not isinstance(parsed, Mapping):
        raise BadInput([f"request: must be a JSON object in braces, not {kind_of(parsed)}"])
    reader = _Reader()
    content = reader.take_object(parsed, ())
    if reader.problems:
        raise BadInput(cut_problems(len(reader.problems), reader.problems))
    return content


class _ParsedObject(dict[str, Any]):
    """An object as parsed, with the keys that its text gives more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated = [key for key, times in Counter(key for key, _ in pairs).items() if times > 1]


def _parse(source: str | bytes) -> object:
    text = _as_text(source)
    if not text.strip():
        raise BadInput(["request: is empty; give a JSON object"])
    _refuse_deep_nesting(text)
    try:
        return json.loads(text, object_pairs_hook=_ParsedObject, parse_int=_parse_int)
    except json.JSONDecodeError as error:
        problem = f"request: is not valid JSON: line {error.lineno}, column {error.colno}: {_lower_first(error.msg)}"
    raise BadInput([problem])


def _as_text(source: str | bytes) -> str:
    size = len(source) if isinstance(source, bytes) else len(source.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise _too_large()
    if isinstance(source, str):
        return source.removeprefix("\ufeff")
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        unreadable = error.start + 1
    # Raised outside the handler: the decoder's error holds the whole input, which must not travel with ours.
    raise BadInput([f"request: is not text in UTF-8: byte {unreadable} cannot be read"])


def _refuse_deep_nesting(text: str) -> None:
    # Before parsing, since the parser's own answer to deep nesting is a RecursionError.
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        if match[0] in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise _too_deep()
        elif match[0] in "]}":
            depth -= 1


def _parse_int(digits: str) -> int | float:
    # What is out of range is left to the reader, which knows the place; int() would raise on thousands of digits.
    return int(digits) if len(digits) <= _MAX_DIGITS else math.inf


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _too_large() -> BadInput:
    return BadInput([f"request: is larger than {MAX_BYTES // 1024} KiB, which is the most that is read"])


def _too_deep() -> BadInput:
    return BadInput([f"request: is nested deeper than {MAX_DEPTH} levels, which is the most that is read"])


class _Reader:
    """Copies parsed JSON into plain values and gathers what is wrong with it."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._size = 0

    def take_object(self, value: Mapping[Any, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
        self._count(path, 2)
        for key in value.repeated if isinstance(value, _ParsedObject) else ():
            self._problem((*path, key), "is given more than once in the same object; give it once")
        content = {}
        for key, entry in value.items():
            if not isinstance(key, str):
                self._problem(path, "has a key that is not text")
                continue
            self._text(key, (*path, key))
            content[key] = self._value(entry, (*path, key))
        return content

    def _value(self, value: object, path: tuple[str | int, ...]) -> object:
        self._count(path, 1)
        match value:
            case None | bool():
                return value
            case str():
                return self._text(value, path)
            case int() | float():
                if abs(value) >= 10**_MAX_DIGITS or not math.isfinite(value):
                    self._problem(path, "must be a number within range; NaN and Infinity are no numbers of JSON")
                return value
            case Mapping():
                return self.take_object(value, path)
            case list() | tuple():
                return [self._value(entry, (*path, at)) for at, entry in enumerate(value)]
        self._problem(path, "must be text, a number, true, false, null, a list or an object")
        return None

    def _text(self, text: str, path: tuple[str | int, ...]) -> str:
        self._count(path, len(text))
        if _UNUSABLE_CHARACTER.search(text):
            self._problem(path, "must not hold a NUL character or half of a surrogate pair")
        return text

    def _count(self, path: tuple[str | int, ...], size: int) -> None:
        self._size += size
        if self._size > MAX_BYTES:
            raise _too_large()
        if len(path) > MAX_DEPTH:
            raise _too_deep()

    def _problem(self, path: tuple[str | int, ...], what: str) -> None:
        self.problems.append(f"{show_path(path)}: {what}")
