"""The DND (Do Not Dispense) exception of a request, and the form in which two exceptions are compared.

Source: vendor documentation of Oracle Clinical One, "Create DND Exception".
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, Self

from pydantic import AliasChoices, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from onboarding.fields import (
    MAX_LIST_LENGTH,
    CountryCode,
    DndDays,
    Flag,
    Section,
    canonical_days,
    compact_json,
    refuse_repeats,
    wrong,
)
from onboarding.identifiers import VendorId, normalise_id


class VisitDnd(Section):
    """A visit and its Do Not Dispense days."""

    model_config = ConfigDict(title="Visit")

    visit_src_id: VendorId = Field(
        title="Visit id",
        description="Id of the visit, 32 hexadecimal digits. Example: 6AF54DB79B764662B685D68C52AB0B84",
        examples=["6AF54DB79B764662B685D68C52AB0B84"],
    )
    dnd: DndDays = Field(
        title="DND days",
        description="Days before expiry in which a kit must not be dispensed, 0 to 99999. Example: 2",
        examples=[2],
    )


class DndExceptionSection(Section):
    """The Do Not Dispense exception that must exist. It belongs to kit types, places and visits, not to the subject."""

    model_config = ConfigDict(title="DND exception (Clinical One)")
    vendor_spellings: ClassVar[dict[str, str]] = {"kit_type_src_ids": "kitTypeSrcId", "visit_dnd": "visitDND"}

    all_countries: Flag = Field(
        default=False,
        title="All countries",
        description="True for every country of the study; then give neither countries nor sites. Example: false",
        examples=[False],
    )
    countries: tuple[CountryCode, ...] | None = Field(
        default=None,
        max_length=MAX_LIST_LENGTH,
        title="Countries",
        description="Country codes of ISO 3166-1 alpha-2, each once. Example: US",
        examples=[["US"]],
    )
    site_ids: tuple[VendorId, ...] | None = Field(
        default=None,
        max_length=MAX_LIST_LENGTH,
        title="Site ids",
        description="Ids of sites in these countries, each once. Example: 6AF54DB79B764662B685D68C52AB0B84",
        examples=[["6AF54DB79B764662B685D68C52AB0B84"]],
    )
    kit_type_src_ids: tuple[VendorId, ...] = Field(
        validation_alias=AliasChoices("kit_type_src_ids", "kitTypeSrcIds", "kitTypeSrcId"),
        min_length=1,
        max_length=MAX_LIST_LENGTH,
        title="Kit type ids",
        description="Ids of the kit types, at least one, each once. Example: 6AF54DB79B764662B685D68C52AB0B84",
        examples=[["6AF54DB79B764662B685D68C52AB0B84"]],
    )
    visit_dnd: tuple[VisitDnd, ...] = Field(
        validation_alias=AliasChoices("visit_dnd", "visitDnd", "visitDND"),
        min_length=1,
        max_length=MAX_LIST_LENGTH,
        title="Visits",
        description="Days for each visit, at least one visit, each once. Example: one visit with 2 days",
        examples=[[{"visit_src_id": "6AF54DB79B764662B685D68C52AB0B84", "dnd": 2}]],
    )

    @model_validator(mode="before")
    @classmethod
    def _some_countries_unless_said(cls, given: object) -> object:
        # A switch of a form that nobody touched says nothing; the vendor wants to be told.
        if isinstance(given, Mapping) and not {"all_countries", "allCountries"} & given.keys():
            return {**given, "all_countries": False}
        return given

    @field_validator("countries", "site_ids", "kit_type_src_ids")
    @classmethod
    def _each_once(cls, entries: tuple[str, ...] | None) -> tuple[str, ...] | None:
        refuse_repeats(entries or ())
        return entries

    @field_validator("visit_dnd")
    @classmethod
    def _each_visit_once(cls, entries: tuple[VisitDnd, ...]) -> tuple[VisitDnd, ...]:
        refuse_repeats(entry.visit_src_id for entry in entries)
        return entries

    @model_validator(mode="after")
    def _one_scope(self) -> Self:
        if self.all_countries and (self.countries or self.site_ids):
            raise wrong("scope", "all_countries is true, so give neither countries nor site_ids")
        if not (self.all_countries or self.countries or self.site_ids):
            raise wrong(
                "scope", "applies nowhere: set all_countries to true, or give countries, or countries and site_ids"
            )
        return self

    def body(self) -> dict[str, Any]:
        """Body of Create DND Exception, entries in the order given; a list without entries is left out."""
        return {name: value for name, value in self.vendor_json().items() if value != []}

    def normalised(self) -> Mapping[str, Any]:
        """The content in the one form of everything that means the same; see ``normalised_dnd_exception``. Not to be changed."""
        return _normalised(self)

    def warnings(self) -> list[str]:
        """What is allowed but not documented by the vendor, one sentence each."""
        if self.site_ids and not self.countries:
            return ["names sites without their countries; the vendor documents sites together with countries only."]
        return []


@lru_cache(maxsize=64)  # many subjects ask for the same one
def _normalised(section: DndExceptionSection) -> dict[str, Any]:
    return normalised_dnd_exception(section.body())


def normalised_dnd_exception(content: Mapping[str, Any]) -> dict[str, Any]:
    """A DND exception's content so that equal means the same: for comparing with a listed one and for digests.

    Lists are sorted and never missing, ids are spelt one way, and numbers are written without trailing zeros (2 is
    2.0). Keys that are not content, such as ``dndExceptionId``, are dropped. What cannot be read stays in it as JSON
    text, so that it equals nothing that we ask for.

    Args:
        content: ``allCountries``, ``countries``, ``kitTypeSrcId``, ``siteIds`` and ``visitDND`` as the vendor writes
            them; a list may be null or missing.
    """
    return {
        "allCountries": content.get("allCountries", False),
        "countries": sorted(_normal_text(entry) for entry in _entries(content.get("countries"))),
        "kitTypeSrcId": sorted(_normal_id(entry) for entry in _entries(content.get("kitTypeSrcId"))),
        "siteIds": sorted(_normal_id(entry) for entry in _entries(content.get("siteIds"))),
        "visitDND": sorted(_normal_visit(entry) for entry in _entries(content.get("visitDND"))),
    }


def _entries(value: object) -> list[object]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _normal_text(value: object) -> str:
    return value.strip().upper() if isinstance(value, str) else compact_json(value)


def _normal_id(value: object) -> str:
    try:
        return normalise_id(value) if isinstance(value, str) else compact_json(value)
    except ValueError:
        return compact_json(value)


def _normal_visit(value: object) -> list[str]:
    if not isinstance(value, Mapping):
        return [compact_json(value), ""]
    try:
        days = format(canonical_days(value.get("dnd")), "f")
    except PydanticCustomError:
        days = compact_json(value.get("dnd"))
    return [_normal_id(value.get("visitSrcId")), days]
