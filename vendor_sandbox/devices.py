"""Clinical One: dispensation, dispensation history, and the mHealth devices of a subject.

Sources: the vendor's pages on dispensation details, dispensation history (v10, v12), register-device, access code
and deregistering; the rules per connection type from its designer guide. What is inferred says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from vendor_sandbox import clinical_one_errors as phrases
from vendor_sandbox.clinical_one_errors import OrsRefusal
from vendor_sandbox.clinical_one_world import (
    CLOUD_TO_CLOUD,
    DEVICE_TO_CLOUD,
    NO_CONNECTION,
    STATUS_NAMES,
    Device,
    Dispensation,
    Kit,
    StudyMode,
)
from vendor_sandbox.switches import Switches
from vendor_sandbox.uuids import code, dashed, derived, normalised

_AS_OF_DATE = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z")


def iso(moment: datetime) -> str:
    """A time as the service writes it: UTC with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def dispensation(mode: StudyMode, inventory_id: str, switches: Switches) -> Any:
    """Who holds a kit now. The answer for a kit nobody holds is not documented, so it is a switch.

    Returns:
        The body; None stands for JSON null and "" for an empty body.
    """
    kit = mode.kits.get(inventory_id)
    if switches.dispensation_schema == "kit_status":
        status = kit.current.status if kit and kit.current and not kit.current.rolled_back else 1
        return {"inventoryStatus": STATUS_NAMES[status], "inventoryStatusId": status, "missingUnits": 0}
    if kit is None or kit.current is None or kit.holder is None:
        number = {} if kit is None else {"kitNumber": kit.kit_number}
        answers: dict[str, Any] = {
            "empty": "",
            "null": None,
            "object": {},
            "no_subject": number,
            "null_subject": {"subjectSrcId": None, "visitSrcId": None, **number},
        }
        return answers[switches.undispensed]
    write = dashed if switches.dispensation_ids == "dashed" else str
    return {
        "subjectSrcId": write(kit.current.subject_id),
        "visitSrcId": write(kit.current.visit_id),
        "instanceNumber": kit.current.instance_number,
        "kitNumber": kit.kit_number,
    }


def dispensation_history(
    mode: StudyMode, subject_id: str, query: Mapping[str, str], version: str
) -> list[dict[str, Any]]:
    """A subject's kits, one row each. v10 needs `visitId` and `asofdate`; v12 needs neither and may show roll-backs.

    Raises:
        OrsRefusal: 400 Invalid parameters, 404 Subject not found.
    """
    visit_text, as_of_text = query.get("visitId"), query.get("asofdate")
    if version == "v10.0" and not (visit_text and as_of_text):
        raise OrsRefusal(400, phrases.INVALID_PARAMETERS, "visitId and asofdate are required")
    visit_id = normalised(visit_text) if visit_text else None
    if visit_text and visit_id is None:
        raise OrsRefusal(400, phrases.INVALID_PARAMETERS, "visitId")
    as_of = _as_of(as_of_text) if as_of_text else None
    if subject_id not in mode.subjects:
        raise OrsRefusal(404, phrases.SUBJECT_NOT_FOUND)
    with_rollbacks = version == "v12.0" and query.get("includeRollback", "").lower() == "true"
    return [
        _history_row(mode.kits[one.inventory_id], one, version)
        for one in mode.history.get(subject_id, [])
        if (visit_id is None or one.visit_id == visit_id)
        and (as_of is None or one.at <= as_of)
        and (with_rollbacks or not one.rolled_back)
    ]


def _as_of(text: str) -> datetime:
    if not _AS_OF_DATE.fullmatch(text):
        raise OrsRefusal(400, phrases.INVALID_PARAMETERS, "asofdate")
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise OrsRefusal(400, phrases.INVALID_PARAMETERS, "asofdate") from error


def _history_row(kit: Kit, one: Dispensation, version: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "allowReplacement": True,
        "balanceUnits": 1,
        "barcode": str(kit.kit_number),
        "conserved": one.status == 19,
        "deviceConnection": kit.connection,
        "deviceType": kit.device_type,
        "dispensationConfirmed": one.confirmed,
        "dispensationDate": iso(one.at),
        "instanceNumber": one.instance_number,
        "inventoryId": one.inventory_id,
        "inventoryStatus": one.status,
        "inventoryStatusName": STATUS_NAMES[one.status],
        "quantity": 1,
    }
    if version == "v12.0":
        row |= {"dispensationRollback": one.rolled_back, "reason": None, "comment": None, "lastActionDate": iso(one.at)}
    return row


def dispensed_kit(mode: StudyMode, subject_id: str, inventory_id: str | None) -> Kit:
    """The kit, if this subject holds it now.

    Raises:
        OrsRefusal: one of the four phrases about subject, device and dispensation.
    """
    if subject_id not in mode.subjects:
        raise OrsRefusal(400, phrases.INVALID_SUBJECT)
    kit = mode.kits.get(inventory_id or "")
    if kit is None:
        raise OrsRefusal(400, phrases.INVALID_DEVICE)
    if kit.holder is None:
        raise OrsRefusal(400, phrases.NOT_DISPENSED)
    if kit.holder != subject_id:
        raise OrsRefusal(400, phrases.DIFFERENT_SUBJECT)
    return kit


def register(mode: StudyMode, subject_id: str, body: Mapping[str, Any]) -> tuple[Device, bool]:
    """Register a dispensed device.

    Device-to-cloud: a second registration of the same device issues a new one-time code (not documented, inferred).

    Returns:
        The device, and whether it is new.

    Raises:
        OrsRefusal: one of the documented phrases; nothing was registered.
    """
    m_subject_id = body.get("mSubjectId")
    if not isinstance(m_subject_id, str) or not m_subject_id.strip():
        raise OrsRefusal(400, phrases.INVALID_PARAMETERS, "mSubjectId")
    for name in ("vendorCode", "subjectNumber"):
        text = body.get(name)
        if text is not None and not (isinstance(text, str) and len(text) <= 100):
            raise OrsRefusal(400, phrases.INVALID_PARAMETERS, name)
    kit = dispensed_kit(mode, subject_id, normalised(body.get("inventoryId")))
    _check_connection(mode, kit, body)
    if not mode.mhealth_settings:
        raise OrsRefusal(500, phrases.SETTINGS_NOT_FOUND)
    assert kit.connection is not None, "a kit without a connection type was refused"
    known = mode.devices.get(kit.inventory_id)
    codes = 1 if known is None else known.codes + 1
    if known is not None:
        deregister(mode, known)
    device = Device(kit.inventory_id, subject_id, m_subject_id, kit.connection, codes)
    mode.devices[kit.inventory_id] = device
    if kit.connection == DEVICE_TO_CLOUD:
        mode.device_to_cloud_of[subject_id] = kit.inventory_id
    return device, known is None


def _check_connection(mode: StudyMode, kit: Kit, body: Mapping[str, Any]) -> None:
    if kit.connection is None:
        raise OrsRefusal(400, phrases.NO_CONNECTION_TYPE)
    if kit.connection == NO_CONNECTION:
        raise OrsRefusal(400, phrases.NO_CONNECTION_DEVICE)
    if kit.connection == CLOUD_TO_CLOUD:
        if not body.get("vendorCode"):
            raise OrsRefusal(400, phrases.VENDOR_CODE_MISSING)
        if kit.inventory_id in mode.devices:
            raise OrsRefusal(400, phrases.ALREADY_REGISTERED)
        return
    if body.get("vendorCode") is not None:
        raise OrsRefusal(400, phrases.VENDOR_CODE_NOT_ALLOWED)
    if not body.get("subjectNumber"):
        raise OrsRefusal(400, phrases.SUBJECT_NUMBER_MISSING)
    # One such device per subject and study is documented; the refusal's wording is not (inferred).
    if mode.device_to_cloud_of.get(kit.holder or "", kit.inventory_id) != kit.inventory_id:
        raise OrsRefusal(400, phrases.SECOND_DEVICE)


def registered_device(mode: StudyMode, subject_id: str, inventory_id: str, m_subject_id: str | None) -> Device:
    """A subject's registered device, for the access-code and deregistering calls.

    Raises:
        OrsRefusal: the phrases of `dispensed_kit`, or that the device is not registered.
    """
    if not m_subject_id:
        raise OrsRefusal(400, phrases.INVALID_PARAMETERS, "mSubjectId")
    dispensed_kit(mode, subject_id, inventory_id)
    device = mode.devices.get(inventory_id)
    if device is None or (device.subject_id, device.m_subject_id) != (subject_id, m_subject_id):
        raise OrsRefusal(400, phrases.NOT_REGISTERED)
    return device


def deregister(mode: StudyMode, device: Device) -> None:
    """Forget a registered device."""
    del mode.devices[device.inventory_id]
    if mode.device_to_cloud_of.get(device.subject_id) == device.inventory_id:
        del mode.device_to_cloud_of[device.subject_id]


def credentials(device: Device, *, with_codes: bool) -> dict[str, str]:
    """The answer of register-device and access-code: device instance id, client access code, one-time code.

    Codes are made up from the ids and the number of codes issued so far, so that runs can be compared.
    """
    answer = {"id": derived("device-instance", device.inventory_id)}
    if with_codes:
        answer["accessId"] = code("access", device.inventory_id, device.codes, length=6)
        answer["otp"] = code("otp", device.inventory_id, device.codes, length=8)
    return answer
