"""Requests with a person's details, as they come from files and the command line. They never enter Prefect.

Everything of a participant but the id, and the free text, is personal data: shown in no ``repr``, echoed by no error.
Source: vendor documentation of OpenSpecimen, "Update Registration", and its server's names of the fields.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import AfterValidator, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from onboarding.errors import BadInput
from onboarding.fields import MAX_LIST_LENGTH, Line, PastDay, Section, refuse_repeats, wrong
from onboarding.json_input import read_object
from onboarding.problems import problem_lines
from onboarding.request import OnboardingRequest, ParticipantSection, RegistrationSection

_MASK: Final = "###"


def _not_masked(text: str) -> str:
    # OpenSpecimen shows the mask to readers without the right to see people; written back, it would become the name.
    if text == _MASK:
        raise wrong("mask", "is the mask that OpenSpecimen shows in place of personal data; give the real value")
    return text


def _nothing_masked(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        _not_masked(value.strip())
    elif isinstance(value, list | dict):
        for entry in value.values() if isinstance(value, dict) else value:
            _nothing_masked(entry)
    return value


PersonalLine = Annotated[Line, AfterValidator(_not_masked)]
Extension = Annotated[dict[str, JsonValue], AfterValidator(_nothing_masked)]


class Pmi(Section):
    """A person's medical record number at a site."""

    model_config = ConfigDict(title="Medical record number")

    mrn: PersonalLine = Field(repr=False, title="MRN", description="Medical record number. Example: MRN-1234")
    site_name: PersonalLine = Field(
        repr=False, title="Site", description="Name of the site that gave the number. Example: Berlin Centre"
    )


class IntakeParticipant(ParticipantSection):
    """The person in OpenSpecimen. A field that is left out stays as it is; null clears it, an empty list too."""

    null_clears: ClassVar[frozenset[str]] = frozenset(
        {
            "first_name",
            "middle_name",
            "last_name",
            "birth_date",
            "death_date",
            "gender",
            "vital_status",
            "races",
            "ethnicities",
            "sex_genotype",
            "uid",
            "empi",
            "pmis",
            "email_address",
            "phone_number",
            "extension_detail",
        }
    )

    first_name: PersonalLine | None = Field(default=None, repr=False, description="First name.")
    middle_name: PersonalLine | None = Field(default=None, repr=False, description="Middle name.")
    last_name: PersonalLine | None = Field(default=None, repr=False, description="Last name.")
    birth_date: PastDay | None = Field(default=None, repr=False, description="Day of birth, YYYY-MM-DD.")
    death_date: PastDay | None = Field(
        default=None,
        repr=False,
        description="Day of death, YYYY-MM-DD; kept by OpenSpecimen with a dead vitalStatus only.",
    )
    gender: PersonalLine | None = Field(default=None, repr=False, description="A gender that the installation knows.")
    vital_status: PersonalLine | None = Field(
        default=None, repr=False, description="A vital status that the installation knows."
    )
    races: tuple[PersonalLine, ...] | None = Field(
        default=None, repr=False, max_length=MAX_LIST_LENGTH, description="Races; replaces the whole list."
    )
    ethnicities: tuple[PersonalLine, ...] | None = Field(
        default=None, repr=False, max_length=MAX_LIST_LENGTH, description="Ethnicities; replaces the whole list."
    )
    sex_genotype: PersonalLine | None = Field(default=None, repr=False, description="Genotype of the sex.")
    uid: PersonalLine | None = Field(
        default=None, repr=False, description="National identifier. Someone else's merges the two people."
    )
    empi: PersonalLine | None = Field(
        default=None, repr=False, description="Master patient index. Someone else's merges the two people."
    )
    pmis: tuple[Pmi, ...] | None = Field(
        default=None,
        repr=False,
        max_length=MAX_LIST_LENGTH,
        description="Medical record numbers; replaces the whole list. Someone else's number merges the two people.",
    )
    email_address: PersonalLine | None = Field(default=None, repr=False, description="E-mail address.")
    phone_number: PersonalLine | None = Field(default=None, repr=False, description="Telephone number.")
    extension_detail: Extension | None = Field(
        default=None, repr=False, description="Values of the installation's own fields, as OpenSpecimen writes them."
    )

    @field_validator("races", "ethnicities")
    @classmethod
    def _each_once(cls, entries: tuple[str, ...] | None) -> tuple[str, ...] | None:
        refuse_repeats(entries or ())
        return entries

    @field_validator("pmis")
    @classmethod
    def _each_number_once(cls, entries: tuple[Pmi, ...] | None) -> tuple[Pmi, ...] | None:
        refuse_repeats((entry.mrn, entry.site_name) for entry in entries or ())
        return entries

    @model_validator(mode="after")
    def _born_before_dying(self) -> Self:
        if self.birth_date is not None and self.death_date is not None and self.death_date < self.birth_date:
            raise wrong("life", "the death date must not lie before the birth date")
        return self


class IntakeRegistration(RegistrationSection):
    """Update of a registration in OpenSpecimen, with the participant's details and the reason of the change."""

    null_clears: ClassVar[frozenset[str]] = RegistrationSection.null_clears | {"op_comments"}

    participant: IntakeParticipant | None = Field(
        default=None, title="Participant", description="The registration's participant and what to change of them."
    )
    op_comments: PersonalLine | None = Field(
        default=None, repr=False, title="Comments", description="Reason of the change, in one line."
    )


class IntakeRequest(OnboardingRequest):
    """One subject's onboarding, with the participant's details."""

    registration: IntakeRegistration | None = Field(
        default=None,
        title="Registration (OpenSpecimen)",
        description="What to update in OpenSpecimen. Nothing filled in: this step is not requested.",
    )

    def without_personal_data(self) -> OnboardingRequest:
        """The same request as one that may enter Prefect: of the participant only the id, and no free text."""
        content = self.model_dump()
        registration = content.get("registration")
        if registration is not None:
            registration.pop("op_comments", None)
            if "participant" in registration:
                registration["participant"] = {"id": registration["participant"]["id"]}
        return OnboardingRequest.model_validate(content)


def parse_request(source: str | bytes | Mapping[str, Any]) -> IntakeRequest:
    """Read one request.

    Args:
        source: JSON text (bytes: UTF-8), or an object as parsed from JSON or put together from a table's row. At most
            512 KiB.

    Raises:
        BadInput: one line per problem: the field as the user spelt it, what is wrong and what is allowed. Values are
            not repeated.
    """
    return checked_request(read_object(source))


def checked_request(content: Mapping[str, Any]) -> IntakeRequest:
    """The request of content that ``read_object`` gave, or that is made of plain values like that; errors as above."""
    try:
        return IntakeRequest.model_validate(content)
    except ValidationError as error:
        problems = problem_lines(error, IntakeRequest, content)
    # Raised outside the handler: the error of pydantic, which holds the values, does not travel with ours.
    raise BadInput(problems)
