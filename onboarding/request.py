"""What is asked for: one subject's onboarding, without personal data. Prefect makes its form of these models.

Field names are ours; the vendors' camelCase spellings are taken too. Sources: vendor documentation of OpenSpecimen
("Update Registration") and of Oracle Clinical One ("Registers an mHealth device", "Create DND Exception").
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Literal, Self, get_args

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from onboarding.dnd_exception import DndExceptionSection, VisitDnd, normalised_dnd_exception
from onboarding.fields import CalendarDay, Flag, Line, NotNull, RecordId, Section, ShortLine, compact_json, wrong
from onboarding.identifiers import VendorId

__all__ = [
    "DeviceSection",
    "DndExceptionSection",
    "Mode",
    "OnboardingRequest",
    "ParticipantSection",
    "RegistrationSection",
    "SectionName",
    "SubjectSection",
    "VisitDnd",
    "canonical_json",
    "canonical_sections",
    "joined_sections",
    "normalised_dnd_exception",
    "section_json",
]

SectionName = Literal["registration", "subject", "device", "dnd_exception"]
_KEYS: Final[Mapping[SectionName, str]] = {name: to_camel(name) for name in get_args(SectionName)}


class Mode(StrEnum):
    """Mode of a Clinical One study; data and rights are separate in each."""

    TEST = "test"
    TRAINING = "training"
    ACTIVE = "active"


def _only_active(value: object) -> object:
    if value != "Active":
        raise wrong("activity_status", 'must be "Active" or left out: another status could delete the registration')
    return value


ActivityStatus = Annotated[Literal["Active"], BeforeValidator(_only_active)]


class ParticipantSection(Section):
    """The person in OpenSpecimen, by number alone."""

    model_config = ConfigDict(title="Participant")

    id: RecordId = Field(
        title="Participant id",
        description="Number of the participant in OpenSpecimen. Another person than the registration's own is refused "
        "unless merging is allowed. Example: 2",
        examples=[2],
    )


class RegistrationSection(Section):
    """Update of a registration in OpenSpecimen. A field that is left out stays as it is."""

    model_config = ConfigDict(title="Registration (OpenSpecimen)")
    null_clears: ClassVar[frozenset[str]] = frozenset({"external_subject_id", "site", "barcode"})

    id: RecordId = Field(
        title="Registration id", description="Number of the registration in OpenSpecimen. Example: 1", examples=[1]
    )
    cp_id: RecordId | None = Field(
        default=None,
        title="Protocol id",
        description="Number of the collection protocol; give exactly one of id, title and short title. Example: 3",
        examples=[3],
    )
    cp_title: Line | None = Field(
        default=None,
        title="Protocol title",
        description="Title of the collection protocol, instead of its id. Example: Heart Failure Study",
        examples=["Heart Failure Study"],
    )
    cp_short_title: Line | None = Field(
        default=None,
        title="Protocol short title",
        description="Short title of the collection protocol, instead of its id. Example: HFS",
        examples=["HFS"],
    )
    participant: ParticipantSection | None = Field(
        default=None, title="Participant", description="The registration's participant, by id. Left out: not looked at."
    )
    ppid: Annotated[Line | None, NotNull] = Field(
        default=None,
        title="PPID",
        description="Participant's identifier inside the protocol, unique there; leave it out where the protocol "
        "makes it. Example: ASCI123",
        examples=["ASCI123"],
    )
    registration_date: Annotated[CalendarDay | None, NotNull] = Field(
        default=None,
        title="Registration date",
        description="Day of the registration, YYYY-MM-DD in OpenSpecimen's time zone. Example: 2014-04-21",
        examples=["2014-04-21"],
    )
    external_subject_id: Line | None = Field(
        default=None,
        title="External subject id",
        description="The subject's coded id in another system; null in JSON, (clear) in CSV, empties it. Example: TEST_001",
        examples=["TEST_001"],
    )
    activity_status: Annotated[ActivityStatus | None, NotNull] = Field(
        default=None,
        title="Activity status",
        description='Only "Active": another status could delete the registration. Example: Active',
        examples=["Active"],
    )
    site: Line | None = Field(
        default=None,
        title="Site",
        description="Name of the registration's site in OpenSpecimen; null in JSON, (clear) in CSV, empties it. "
        "Example: Berlin Centre",
        examples=["Berlin Centre"],
    )
    barcode: Line | None = Field(
        default=None,
        title="Barcode",
        description="Barcode of the registration, unique in its protocol; null in JSON, (clear) in CSV, empties it. "
        "Example: REG-0001",
        examples=["REG-0001"],
    )
    allow_merge: Flag = Field(
        default=False,
        title="Allow merging people",
        description="True if the registration may move to another participant. OpenSpecimen then deletes the old one, "
        "and nothing undoes it. Example: false",
        examples=[False],
    )

    @model_validator(mode="after")
    def _exactly_one_protocol(self) -> Self:
        given = [name for name in ("cp_id", "cp_title", "cp_short_title") if getattr(self, name) is not None]
        if len(given) != 1:
            but = " and ".join(given) or "none"
            raise wrong("protocol", f"give exactly one of cp_id, cp_title and cp_short_title, but {but} was given")
        return self

    def body(self) -> dict[str, Any]:
        """Body of Update Registration: exactly the keys given, under the vendor's names, dates as ``yyyy-MM-dd``."""
        body = self.vendor_json()
        body.pop("allowMerge", None)  # a word to us, not to OpenSpecimen
        return body

    def warnings(self) -> list[str]:
        """What is allowed but likely not meant, one sentence each."""
        if set(self.body()) <= {"id", "cpId", "cpTitle", "cpShortTitle"}:
            return ["asks for no change of the registration."]
        return []


class SubjectSection(Section):
    """The subject in Oracle Clinical One. Always needed."""

    model_config = ConfigDict(title="Subject (Clinical One)")

    study_id: VendorId = Field(
        title="Study id",
        description="Id of the study, 32 hexadecimal digits. Example: 1BC29B36F5D64B1B95F4BDBBCEA481BE",
        examples=["1BC29B36F5D64B1B95F4BDBBCEA481BE"],
    )
    mode: Mode = Field(
        title="Mode", description="Mode of the study: test, training or active. Example: test", examples=["test"]
    )
    subject_id: VendorId = Field(
        title="Subject id",
        description="Id of the subject, 32 hexadecimal digits. Example: 0A1B2C3D4E5F67890123456789ABCDEF",
        examples=["0A1B2C3D4E5F67890123456789ABCDEF"],
    )


class DeviceSection(Section):
    """The mHealth device to register for the subject, once it is dispensed."""

    model_config = ConfigDict(title="Device (Clinical One)")

    inventory_id: VendorId = Field(
        title="Inventory id",
        description="Id of the device in the inventory, 32 hexadecimal digits. "
        "Example: B1B8327AFAA6412287106192AB5984EF",
        examples=["B1B8327AFAA6412287106192AB5984EF"],
    )
    m_subject_id: Line = Field(
        title="mHealth subject id",
        description="The subject's coded id in mHealth. Example: 5C9F4E2D1B0A49E8A7C6D5E4F3B2A190",
        examples=["5C9F4E2D1B0A49E8A7C6D5E4F3B2A190"],
    )
    subject_number: ShortLine | None = Field(
        default=None,
        title="Subject number",
        description="For a device-to-cloud device, 1 to 100 characters. Example: siteA-1",
        examples=["siteA-1"],
    )
    vendor_code: ShortLine | None = Field(
        default=None,
        title="Vendor code",
        description="For a cloud-to-cloud device, 1 to 100 characters, instead of the subject number. Example: XYZ123",
        examples=["XYZ123"],
    )

    @model_validator(mode="after")
    def _one_connection(self) -> Self:
        if (self.subject_number is None) == (self.vendor_code is None):
            given = "neither was" if self.subject_number is None else "both were"
            raise wrong(
                "connection",
                "give exactly one of subject_number (device-to-cloud) and vendor_code (cloud-to-cloud), "
                f"but {given} given",
            )
        return self

    def body(self) -> dict[str, Any]:
        """Body of register-device: ``inventoryId``, ``mSubjectId`` and one of ``subjectNumber`` and ``vendorCode``."""
        return self.vendor_json()


class OnboardingRequest(Section):
    """One subject's onboarding: who it is, and at least one thing to do."""

    model_config = ConfigDict(title="Onboarding request")

    registration: RegistrationSection | None = Field(
        default=None,
        title="Registration (OpenSpecimen)",
        description="What to update in OpenSpecimen. Nothing filled in: this step is not requested.",
    )
    subject: SubjectSection = Field(
        title="Subject (Clinical One)", description="The subject to onboard: study, mode and subject id."
    )
    device: DeviceSection | None = Field(
        default=None,
        title="Device (Clinical One)",
        description="The mHealth device to register once it is dispensed. Nothing filled in: neither step is requested.",
    )
    dnd_exception: DndExceptionSection | None = Field(
        default=None,
        title="DND exception (Clinical One)",
        description="The Do Not Dispense exception that must exist. Nothing filled in: this step is not requested.",
    )

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if self.registration is None and self.device is None and self.dnd_exception is None:
            raise wrong("nothing", "asks for nothing: give at least one of registration, device and dnd_exception")
        return self

    def warnings(self) -> list[str]:
        """What is allowed but likely not meant, one line each, beginning with the section's name."""
        registration = self.registration.warnings() if self.registration else []
        dnd_exception = self.dnd_exception.warnings() if self.dnd_exception else []
        return [f"registration: {text}" for text in registration] + [f"dnd_exception: {text}" for text in dnd_exception]


def canonical_json(request: OnboardingRequest) -> bytes:
    """The request as JSON in UTF-8, the same for every request that asks for the same: what a keyed digest is made of.

    Only keys that say something are in it, and the order of keys and of lists makes no difference. It may hold
    personal data, if the request does.
    """
    return joined_sections(canonical_sections(request.vendor_json()))


def canonical_sections(content: Mapping[str, Any]) -> dict[str, bytes]:
    """Every section as ``section_json`` gives it, by name; ``content`` is the request's ``vendor_json``."""
    return {name: compact_json(_canonical(name, content.get(key))).encode() for name, key in _KEYS.items()}


def joined_sections(sections: Mapping[str, bytes]) -> bytes:
    """``canonical_json`` of the request with these sections."""
    return b"{" + b",".join(b'"%b":%b' % (name.encode(), sections[name]) for name in sorted(sections)) + b"}"


def section_json(request: OnboardingRequest, section: SectionName) -> bytes:
    """One section as in ``canonical_json``; ``null`` if the request does not have it."""
    return canonical_sections(request.vendor_json())[section]


def _canonical(section: SectionName, content: Mapping[str, Any] | None) -> object:
    if content is None:
        return None
    if section == "dnd_exception":
        return normalised_dnd_exception(content)
    # False is the default, so the same as not saying it.
    return _unordered({name: entry for name, entry in content.items() if (name, entry) != ("allowMerge", False)})


def _unordered(value: object) -> object:
    if isinstance(value, dict):
        return {name: _unordered(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return sorted((_unordered(entry) for entry in value), key=compact_json)
    return value
