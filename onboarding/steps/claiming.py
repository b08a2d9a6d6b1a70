"""What a case claims, and for whom: from its request and the systems it is onboarded to."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from onboarding.fields import compact_json
from onboarding.intake import IntakeRequest
from onboarding.keys import LedgerKey
from onboarding.ledger.claims import ClaimKey, ClaimKind, claim_key
from onboarding.ledger.deciding import Holds
from onboarding.steps.systems import Systems


class Asks(Protocol):
    """A request and the systems it is for."""

    @property
    def request(self) -> IntakeRequest:
        """What is asked for."""

    @property
    def systems(self) -> Systems:
        """Whom it is asked of."""


def registration_claims(asks: Asks) -> list[ClaimKey]:
    """The registration, for this subject."""
    assert asks.request.registration is not None
    key = claim_key(asks.systems.openspecimen_address, str(asks.request.registration.id))
    return [ClaimKey(ClaimKind.REGISTRATION, key, _subject(asks.request))]


def device_claims(asks: Asks) -> list[ClaimKey]:
    """The device, for this subject; and a device-to-cloud subject, for this one device."""
    device, subject = asks.request.device, asks.request.subject
    assert device is not None
    place = (asks.systems.clinical_one_address, subject.study_id, str(subject.mode))
    claims = [ClaimKey(ClaimKind.INVENTORY, claim_key(*place, device.inventory_id), _subject(asks.request))]
    if device.subject_number is not None:
        key = claim_key(*place, subject.subject_id)
        claims.append(ClaimKey(ClaimKind.DEVICE_TO_CLOUD_SUBJECT, key, device.inventory_id))
    return claims


def exception_key(asks: Asks, key: LedgerKey, normalised: Mapping[str, Any]) -> str:
    """The key of an exception's content, in its study and mode."""
    subject = asks.request.subject
    content = key.digest("dnd exception", compact_json(normalised))
    return claim_key(asks.systems.clinical_one_address, subject.study_id, str(subject.mode), content)


def _subject(request: IntakeRequest) -> str:
    subject = request.subject
    return claim_key(subject.study_id, str(subject.mode), subject.subject_id)


@dataclass(frozen=True)
class Asked:
    """A request and the systems it is for, outside a session."""

    request: IntakeRequest
    systems: Systems


def holds_of(asked: Asked, key: LedgerKey) -> Holds:
    """Everything that a case's request claims, for a decision about it."""
    request = asked.request
    return Holds(
        addresses=asked.systems.addresses,
        registration=registration_claims(asked) if request.registration is not None else (),
        device=device_claims(asked) if request.device is not None else (),
        exception=(
            exception_key(asked, key, request.dnd_exception.normalised()) if request.dnd_exception is not None else None
        ),
    )
