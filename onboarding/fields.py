"""What the request models are made of: the base of every section and the types of its fields.

Every validator's message says what is allowed and never repeats the value, since it may be a person's.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, ClassVar, Final

from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    StringConstraints,
    WithJsonSchema,
    model_serializer,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from onboarding.countries import COUNTRY_CODES

MAX_TEXT_LENGTH: Final = 255
MAX_SHORT_TEXT_LENGTH: Final = 100
MAX_LIST_LENGTH: Final = 5000
MAX_RECORD_ID: Final = 2**63 - 1
MAX_DND_DAYS: Final = 99999
MAX_DND_DECIMALS: Final = 6
FIRST_DAY: Final = date(1800, 1, 1)
LAST_DAY: Final = date(2199, 12, 31)

_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_WHOLE_NUMBER: Final = re.compile(r"[0-9]{1,19}")
_DECIMAL_NUMBER: Final = re.compile(r"[0-9]{1,5}(?:\.[0-9]+)?")
_COUNTRY: Final = re.compile(r"[A-Za-z]{2}")

_camel_case: Final = cache(to_camel)  # there are few field names, and a batch spells them for every subject
_PLAIN: Final = frozenset({str, int, bool, type(None)})
_COMPACT: Final = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=str)

# Control characters, lone surrogates and the separators that start a new line: none belongs into a field of one line.
_NOT_IN_A_LINE: Final = frozenset({"Cc", "Cs", "Zl", "Zp"})

# The first place on Earth to see a new day is 14 hours ahead of UTC.
_FIRST_TIME_ZONE: Final = timedelta(hours=14)


def wrong(code: str, what: str) -> PydanticCustomError:
    """An error for a validator to raise; ``what`` reads on from the field's name and holds none of the input."""
    return PydanticCustomError("wrong_" + code, "{what}", {"what": what})


def refuse_repeats(entries: Iterable[object]) -> None:
    """Refuse a list that names the same thing twice.

    Raises:
        PydanticCustomError: says which entry repeats which, counted from 0 as in the field's path.
    """
    first_at: dict[object, int] = {}
    for at, entry in enumerate(entries):
        if entry in first_at:
            raise wrong("repeat", f"every entry may be given once, but [{at}] repeats [{first_at[entry]}]")
        first_at[entry] = at


def vendor_names(field_name: str) -> AliasChoices:
    """The spellings a field is taken in: ours first, then the vendor's."""
    return AliasChoices(field_name, to_camel(field_name))


def _fit_for_a_form(schema: dict[str, Any]) -> None:
    """Describe each field as the page's form should show it; what is taken is decided by the model alone.

    No defaults: the form would send them, so that a section in which nobody typed anything would not be left out. No choice
    between null and a value: the form would name the types, and could not say which field of the value is wrong.
    """
    for field_schema in schema.get("properties", {}).values():
        field_schema.pop("default", None)
        branches = [branch for branch in field_schema.get("anyOf", []) if branch != {"type": "null"}]
        if len(branches) == 1:
            del field_schema["anyOf"]
            field_schema.update({**branches[0], **field_schema})
        if "const" in field_schema:  # else the form asks for text
            field_schema["enum"] = [field_schema.pop("const")]


class Section(BaseModel):
    """Base of the request's objects: unknown keys are refused, nothing changes later, and which keys were given counts.

    A null given where it does not clear anything is the same as leaving the key out.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_by_name=True,
        validate_by_alias=True,
        alias_generator=AliasGenerator(validation_alias=vendor_names),
        json_schema_extra=_fit_for_a_form,
        hide_input_in_errors=True,
        # An intake request with a person's details is not taken where a request without them is asked for.
        revalidate_instances="subclass-instances",
    )

    null_clears: ClassVar[frozenset[str]] = frozenset()
    vendor_spellings: ClassVar[dict[str, str]] = {}

    def given(self) -> list[str]:
        """Names of the fields that say something, in the model's order: set, and not a null that means nothing."""
        was_set, clears = self.model_fields_set, self.null_clears
        return [
            name
            for name in type(self).model_fields
            if name in was_set and (name in clears or getattr(self, name) is not None)
        ]

    def vendor_json(self) -> dict[str, Any]:
        """The given fields as JSON values under the vendor's names; dates as ``yyyy-MM-dd``."""
        return {
            self.vendor_spellings.get(name) or _camel_case(name): _vendor_value(getattr(self, name))
            for name in self.given()
        }

    @model_serializer(mode="wrap")
    def _dump_only_what_was_given(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Whoever stores a request (Prefect dumps every field) must not turn an absent key into a null that clears.
        dumped: dict[str, Any] = dump(self)
        return {name: dumped[name] for name in self.given() if name in dumped}


def compact_json(value: object) -> str:
    """JSON without spaces and with sorted keys: the same text for the same value."""
    return _COMPACT.encode(value)


def _vendor_value(value: object) -> object:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Section):
        return value.vendor_json()
    if isinstance(value, tuple | list):
        return [_vendor_value(entry) for entry in value]
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return plain_number(value)
    return value


def plain_number(number: Decimal) -> int | float:
    """The JSON number of a number of days; exact, as no more than 11 digits get in."""
    return int(number) if number == number.to_integral_value() else float(number)


def canonical_days(value: object) -> Decimal:
    """A number of days from 0 to 99999 with at most 6 decimals, without trailing zeros (``2.0`` is ``2``).

    Raises:
        PydanticCustomError: it is no such number; true and false are none either.
    """
    refusal = wrong(
        "days", f"must be a number of days from 0 to {MAX_DND_DAYS}, with at most {MAX_DND_DECIMALS} decimals"
    )
    if isinstance(value, str):
        if _DECIMAL_NUMBER.fullmatch(value.strip()) is None:
            raise refusal
        number = Decimal(value.strip())
    elif isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise refusal
    else:
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite() or not 0 <= number <= MAX_DND_DAYS or number != round(number, MAX_DND_DECIMALS):
        raise refusal
    return Decimal(0) if number == 0 else Decimal(format(number.normalize(), "f"))


def _record_id(value: object) -> int:
    if isinstance(value, str) and _WHOLE_NUMBER.fullmatch(value.strip()):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_RECORD_ID:
        raise wrong("record_id", f"must be a whole number from 1 to {MAX_RECORD_ID}")
    return value


def _calendar_day(value: object) -> date:
    day = None
    if isinstance(value, str) and _DAY.fullmatch(value.strip()):
        try:
            day = date.fromisoformat(value.strip())
        except ValueError:
            raise wrong("day", "is not a day of the calendar; write a real one as YYYY-MM-DD") from None
    elif isinstance(value, date) and not isinstance(value, datetime):
        day = value
    if day is None:
        raise wrong("day", "must be a date as YYYY-MM-DD, for example 2014-04-21")
    if not FIRST_DAY <= day <= LAST_DAY:
        raise wrong("day", f"must lie between {FIRST_DAY} and {LAST_DAY}")
    return day


def _not_in_the_future(day: date) -> date:
    if day > (datetime.now(UTC) + _FIRST_TIME_ZONE).date():
        raise wrong("future_day", "must not lie in the future")
    return day


def _flag(value: object) -> bool:
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        return value.strip().lower() == "true"
    if not isinstance(value, bool):
        raise wrong("flag", "must be true or false")
    return value


def _country_code(text: str) -> str:
    # Upper-casing alone is not enough: a lone sharp s would become South Sudan.
    if _COUNTRY.fullmatch(text) is None or text.upper() not in COUNTRY_CODES:
        raise wrong("country", "must be a country code of ISO 3166-1 alpha-2, for example US")
    return text.upper()


def _one_line(text: str) -> str:
    if not text.isprintable() and any(unicodedata.category(character) in _NOT_IN_A_LINE for character in text):
        raise wrong("line", "must be one line of text without control characters")
    return text


def _refuse_null(value: object) -> object:
    if value is None:
        raise wrong("null", "must not be null; leave the key out to keep what stands")
    return value


Line = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_TEXT_LENGTH),
    AfterValidator(_one_line),
]
"""One line of text, not blank, at most 255 characters; space around it is dropped, as both vendors' servers do."""

ShortLine = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_SHORT_TEXT_LENGTH),
    AfterValidator(_one_line),
]
"""As ``Line``, but at most 100 characters, the limit that Clinical One documents."""

RecordId = Annotated[
    int, BeforeValidator(_record_id), Field(json_schema_extra={"minimum": 1, "maximum": MAX_RECORD_ID})
]
"""A whole number from 1, as OpenSpecimen counts its records; digits as text are taken too."""

CalendarDay = Annotated[date, BeforeValidator(_calendar_day)]
"""A real day, written ``YYYY-MM-DD`` and in no other way: OpenSpecimen would turn 30 February into 2 March."""

PastDay = Annotated[CalendarDay, AfterValidator(_not_in_the_future)]
"""A real day that has begun somewhere on Earth."""

Flag = Annotated[bool, BeforeValidator(_flag)]
"""true or false, as JSON or as text."""

CountryCode = Annotated[
    Annotated[str, StringConstraints(strip_whitespace=True)],
    AfterValidator(_country_code),
    Field(json_schema_extra={"pattern": r"^\s*[A-Za-z]{2}\s*$"}),
]
"""A country of ISO 3166-1 in two letters, upper-cased."""

DndDays = Annotated[
    Decimal,
    BeforeValidator(canonical_days),
    PlainSerializer(plain_number, return_type=int | float, when_used="json"),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": MAX_DND_DAYS}),
]
"""Days before a kit's expiry in which it must not be dispensed: 0 to 99999, decimals allowed."""

NotNull = BeforeValidator(_refuse_null)
"""For a field that may be left out but not be given as null."""
