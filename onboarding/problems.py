"""What pydantic found wrong, in plain English: one line per problem, with the field as the user spelt it.

No line repeats a value, as any value may have been put into the wrong field.
"""

import types
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from onboarding.json_input import cut_problems, kind_of, show_path

# Keys that older editions of the vendor's documentation use, and what the server reads instead.
_OUTDATED_KEYS: Final = {"race": "races", "ethnicity": "ethnicities"}

_WORDS: Final[Mapping[str, str]] = {
    "string_type": "must be text, not {kind}",
    "string_too_short": "must not be blank",
    "string_too_long": "must have at most {max_length} characters",
    "string_unicode": "must not hold half of a surrogate pair",
    "model_type": "must be an object, not {kind}",
    "model_attributes_type": "must be an object, not {kind}",
    "dict_type": "must be an object, not {kind}",
    "tuple_type": "must be a list, not {kind}",
    "too_short": "must have at least {min_length} entry",
    "too_long": "must have at most {max_length} entries",
    "enum": "must be {expected}",
}


def problem_lines(error: ValidationError, model: type[BaseModel], content: Mapping[str, Any]) -> list[str]:
    """One line per problem, in the order of the model; at most a hundred, then how many more.

    Args:
        error: what validating the input raised.
        model: the model that the input was validated against.
        content: the input, for the way its keys are spelt.
    """
    details = error.errors(include_url=False)
    below = {path[:depth] for path in (detail["loc"] for detail in details) for depth in range(len(path))}
    # An entry that is wrong itself is not counted as an entry, but it is not missing either.
    details = [detail for detail in details if detail["type"] != "too_short" or detail["loc"] not in below]
    return cut_problems(
        len(details),
        (f"{show_path(_spelt(detail, content))}: {_what(detail, model)}" for detail in details),
    )


def _spelt(detail: ErrorDetails, content: Mapping[str, Any]) -> tuple[str | int, ...]:
    """The field's path; a missing key is spelt as the keys beside it are, or else as the input's other keys."""
    path = detail["loc"]
    if detail["type"] != "missing":
        return path
    beside = _is_camel_case(detail["input"])
    if beside if beside is not None else _is_camel_case(content):
        return (*path[:-1], to_camel(str(path[-1])))
    return path


def _is_camel_case(content: object) -> bool | None:
    """Whether the first key of more than one word is written ``likeThis``; None if there is none."""
    if not isinstance(content, Mapping):
        return None
    for key, value in content.items():
        if "_" in key:
            return False
        if key != key.lower():
            return True
        below = _is_camel_case(value)
        if below is not None:
            return below
    return None


def _what(detail: ErrorDetails, model: type[BaseModel]) -> str:
    path, code = detail["loc"], detail["type"]
    if code == "extra_forbidden":
        return _unknown_key(str(path[-1]), _model_at(model, path[:-1]))
    if code == "missing":
        field = _field_of(_model_at(model, path[:-1]), str(path[-1]))
        meaning = f": {field.description}" if field is not None and field.description else ""
        return f"is missing{meaning}"
    if code in _WORDS:
        return _WORDS[code].format(**{**detail.get("ctx", {}), "kind": kind_of(detail["input"])})
    return detail["msg"]


def _unknown_key(key: str, model: type[BaseModel] | None) -> str:
    if model is None:
        return "is not a known key"
    field = _field_of(model, key)
    if field is not None:
        return "is given twice, in two spellings; give it once"
    if key in _OUTDATED_KEYS and _OUTDATED_KEYS[key] in model.model_fields:
        return f"is not a known key; use {_OUTDATED_KEYS[key]}"
    known = [spelling for spellings in _spellings(model).values() for spelling in spellings]
    closest = get_close_matches(key, known, n=1) or get_close_matches(key.lower(), known, n=1)
    if closest:
        return f"is not a known key; did you mean {closest[0]}?"
    return f"is not a known key; known here are {', '.join(model.model_fields)}"


def _spellings(model: type[BaseModel]) -> dict[str, list[str]]:
    """Every spelling that each field is taken in, ours first."""
    return {
        name: [str(choice) for choice in field.validation_alias.choices]
        if isinstance(field.validation_alias, AliasChoices)
        else [name]
        for name, field in model.model_fields.items()
    }


def _field_of(model: type[BaseModel] | None, key: str) -> FieldInfo | None:
    if model is None:
        return None
    name = next((name for name, spellings in _spellings(model).items() if key in spellings), None)
    return model.model_fields[name] if name is not None else None


def _model_at(model: type[BaseModel], path: tuple[str | int, ...]) -> type[BaseModel] | None:
    """The model of the object at a path; None where the input is free."""
    at: type[BaseModel] | None = model
    for step in path:
        if isinstance(step, int):
            continue
        field = _field_of(at, step)
        at = next(_models_in(field.annotation), None) if field is not None else None
    return at


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in {Union, types.UnionType, tuple}:
        for part in get_args(annotation):
            yield from _models_in(part)
