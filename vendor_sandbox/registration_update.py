"""OpenSpecimen's Update Registration: partial by key presence, and also the call that merges and deletes.

The order of checks is the server's: load, build, protocol, rights, PPID, barcode, participant, save in one
transaction. Participant errors are thrown on their own and hide the registration's (server behaviour).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from vendor_sandbox.openspecimen_errors import OpenSpecimenRefusal
from vendor_sandbox.openspecimen_world import OpenSpecimenWorld, Registration, User, identifiers

ACTIVITY_STATUSES = {"Active", "Closed", "Disabled"}
# The attribute of `Registration` behind each key that a PUT can change; the protocol is never looked at.
ATTRIBUTES = {
    "ppid": "ppid",
    "barcode": "barcode",
    "activityStatus": "activity_status",
    "registrationDate": "registration_date",
    "externalSubjectId": "external_subject_id",
    "site": "site",
}


@dataclass(slots=True)
class Outcome:
    """What a PUT did. `changed` holds key names (`participant.uid` for the person's); `merged` the removed person."""

    registration: Registration
    deleted: bool = False
    merged: int | None = None
    changed: list[str] = field(default_factory=list)


class RegistrationUpdate:
    """One PUT against a stored registration.

    Args:
        world: the data; changed only if every check passes.
        user: whose rights count.
        detail: the keys the request gave, as read by `openspecimen_json.read_registration`.
        zone: the server's zone, for "in the future".
    """

    def __init__(self, world: OpenSpecimenWorld, user: User, detail: dict[str, Any], zone: ZoneInfo) -> None:
        self._world = world
        self._user = user
        self._detail = detail
        self._today = datetime.now(UTC).astimezone(zone).date()

    def apply(self, registration_id: int) -> Outcome:
        """Check and store the update.

        Raises:
            OpenSpecimenRefusal: nothing was changed.
        """
        stored = self._world.registrations.get(registration_id)
        if stored is None:
            raise OpenSpecimenRefusal(("CPR_M_NOT_FOUND", registration_id))
        person = self._read_person(stored)
        wanted = self._build(stored)
        protocol = self._world.protocols[stored.cp_id]
        if protocol.specimen_centric:
            raise OpenSpecimenRefusal(("CP_OP_NOT_ALLOWED_SC", protocol.short_title))
        if not self._user.may("update", stored.cp_id):
            raise OpenSpecimenRefusal(("RBAC_ACCESS_DENIED", ""))
        if wanted.activity_status == "Disabled":
            return self._delete(stored)
        wanted = self._check_ppid(stored, wanted)
        if self._world.taken_by_another(wanted, "barcode"):
            raise OpenSpecimenRefusal(("CPR_DUP_BARCODE", ""))
        target = self._target_person(stored, person)
        if target != stored.participant_id:
            self._check_merge_rights(stored.participant_id)
        if self._world.taken_by_another(wanted, "external_subject_id"):
            raise OpenSpecimenRefusal(("COMMON_SQL_EXCEPTION", ""))
        return self._save(stored, wanted, target, person)

    def _read_person(self, stored: Registration) -> dict[str, Any]:
        if "participant" not in self._detail:
            return {}
        person: dict[str, Any] | None = self._detail["participant"]
        if person is None:
            raise OpenSpecimenRefusal(("CPR_PARTICIPANT_DETAIL_REQUIRED", ""))
        named = person.get("id")
        if named not in {None, -1, stored.participant_id} and named not in self._world.participants:
            raise OpenSpecimenRefusal(("PARTICIPANT_NOT_FOUND", ""))
        errors = [*self._value_errors(person), *self._medical_number_errors(person)]
        if errors:
            raise OpenSpecimenRefusal(*((code, "") for code in errors))
        return person

    def _value_errors(self, person: dict[str, Any]) -> list[str]:
        errors = []
        for key, code in (
            ("gender", "PARTICIPANT_INVALID_GENDER"),
            ("vitalStatus", "PARTICIPANT_INVALID_VITAL_STATUS"),
            ("races", "PARTICIPANT_INVALID_RACE"),
            ("ethnicities", "PARTICIPANT_INVALID_ETHNICITY"),
        ):
            value = person.get(key) or []
            given = [value] if isinstance(value, str) else value
            allowed = self._world.permissible.get(key)
            if allowed is not None and any(one not in allowed for one in given):
                errors.append(code)
        for key, code in (("birthDate", "BIRTH_DATE"), ("deathDate", "DEATH_DATE")):
            if person.get(key) is not None and person[key] > self._today:
                errors.append(f"PARTICIPANT_INVALID_{code}")
        if person.get("emailAddress") and "@" not in person["emailAddress"]:
            errors.append("PARTICIPANT_INVALID_EMAIL_ID")
        return errors

    def _medical_number_errors(self, person: dict[str, Any]) -> list[str]:
        sites = [pmi["siteName"] for pmi in person.get("pmis") or []]
        if any(site not in self._world.sites for site in sites):
            return ["SITE_NOT_FOUND"]
        return ["PARTICIPANT_DUP_MRN_SITE"] if len(set(sites)) < len(sites) else []

    def _build(self, stored: Registration) -> Registration:
        errors: list[tuple[str, object]] = []
        given = {key: value for key, value in self._detail.items() if key in ATTRIBUTES}
        if "registrationDate" in given and given["registrationDate"] is None:
            errors.append(("CPR_REG_DATE_REQUIRED", ""))
        if given.get("site") is not None and given["site"] not in self._world.sites:
            errors.append(("SITE_NOT_FOUND", ""))
        if "activityStatus" in given:
            given["activityStatus"] = given["activityStatus"] or "Active"
            if given["activityStatus"] not in ACTIVITY_STATUSES:
                errors.append(("ACTIVITY_STATUS_INVALID", ""))
        if errors:
            raise OpenSpecimenRefusal(*errors)
        return replace(stored, **{ATTRIBUTES[key]: value for key, value in given.items()})

    def _check_ppid(self, stored: Registration, wanted: Registration) -> Registration:
        protocol = self._world.protocols[stored.cp_id]
        if wanted.ppid == stored.ppid:
            return wanted
        if not wanted.ppid:
            if protocol.ppid == "auto":
                return replace(wanted, ppid=stored.ppid)
            raise OpenSpecimenRefusal(("CPR_PPID_REQUIRED", ""))
        if protocol.ppid == "auto":
            raise OpenSpecimenRefusal(("CPR_MANUAL_PPID_NOT_ALLOWED", ""))
        if protocol.ppid_pattern and not re.fullmatch(protocol.ppid_pattern, wanted.ppid):
            raise OpenSpecimenRefusal(("CPR_INVALID_PPID", wanted.ppid))
        if self._world.taken_by_another(wanted, "ppid"):
            raise OpenSpecimenRefusal(("CPR_DUP_PPID", wanted.ppid))
        return wanted

    def _target_person(self, stored: Registration, person: dict[str, Any]) -> int:
        """The participant the registration ends with; another one than the stored means: merge."""
        named = person.get("id")
        target: int = stored.participant_id if named in {None, -1} else named
        owners = {key: self._world.owner_of(key) for key in identifiers(person)}
        others = {owner for owner in owners.values() if owner is not None} - {target, stored.participant_id}
        if not others:
            return target
        if target != stored.participant_id:
            kind = next(key[0] for key, owner in owners.items() if owner in others)
            raise OpenSpecimenRefusal((f"PARTICIPANT_DUP_{kind.upper()}", ""))
        if len(others) > 1:
            raise OpenSpecimenRefusal(("PARTICIPANT_MULTI_MATCHES", ""))
        return others.pop()

    def _check_merge_rights(self, source: int) -> None:
        for registration in self._world.registrations_of(source):
            if not self._user.may("update", registration.cp_id):
                title = self._world.protocols[registration.cp_id].short_title
                raise OpenSpecimenRefusal(("CPR_CANNOT_MERGE_PARTICIPANT", title))

    def _save(self, stored: Registration, wanted: Registration, target: int, person: dict[str, Any]) -> Outcome:
        changed = [key for key, name in ATTRIBUTES.items() if getattr(wanted, name) != getattr(stored, name)]
        merged = None
        self._world.put_registration(wanted)
        if target != stored.participant_id:
            merged = stored.participant_id
            changed.append("participant.id")
            self._merge(merged, target)
        before = self._world.participants[target]
        after = {**before, **{key: value for key, value in person.items() if key != "id"}}
        if str(after.get("vitalStatus") or "").lower() not in {"dead", "deceased"}:
            after["deathDate"] = None
        changed += [f"participant.{key}" for key in after if (before.get(key) or None) != (after[key] or None)]
        self._world.put_participant(target, after)
        survivor = self._world.registrations.get(stored.id)
        if survivor is None:
            survivor = next(one for one in self._world.registrations_of(target) if one.cp_id == stored.cp_id)
        return Outcome(survivor, merged=merged, changed=changed)

    def _merge(self, source: int, target: int) -> None:
        """Move the source's registrations, or their visits where the target is on the protocol already; remove it."""
        present = {one.cp_id: one for one in self._world.registrations_of(target)}
        for registration in self._world.registrations_of(source):
            overlapping = present.get(registration.cp_id)
            if overlapping is None:
                self._world.put_registration(replace(registration, participant_id=target))
            else:
                self._world.remove_registration(registration.id)
                visits = overlapping.visits + registration.visits
                self._world.put_registration(replace(overlapping, visits=visits))
        self._world.remove_participant(source)

    def _delete(self, stored: Registration) -> Outcome:
        if stored.visits and not self._detail.get("forceDelete"):
            raise OpenSpecimenRefusal(("PARTICIPANT_REF_ENTITY_FOUND", ""))
        self._world.remove_registration(stored.id)
        return Outcome(replace(stored, activity_status="Disabled"), deleted=True, changed=["activityStatus"])
