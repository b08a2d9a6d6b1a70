"""What stands in both worlds, as plain JSON values. Passwords, secrets and tokens are left out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from vendor_sandbox.clinical_one_world import ClinicalOneWorld, Kit, StudyMode
from vendor_sandbox.devices import iso
from vendor_sandbox.dnd_exceptions import written
from vendor_sandbox.openspecimen_world import OpenSpecimenWorld


def snapshot(openspecimen: OpenSpecimenWorld, clinical_one: ClinicalOneWorld) -> dict[str, Any]:
    """Registrations and participants by id (as text), studies by id and mode."""
    return {
        "openspecimen": {
            "registrations": {
                str(one.id): {**asdict(one), "registration_date": one.registration_date.isoformat()}
                for one in openspecimen.registrations.values()
            },
            "participants": {
                str(number): {key: _plain(value) for key, value in values.items()}
                for number, values in openspecimen.participants.items()
            },
            "users": {
                user.login_name: {"locked": user.locked, "failures": user.failures}
                for user in openspecimen.users.values()
            },
            "sessions": len(openspecimen.sessions),
        },
        "clinical_one": {
            "studies": {
                study_id: {name: _mode(mode) for name, mode in modes.items()}
                for study_id, modes in clinical_one.studies.items()
            },
            "tokens": len(clinical_one.tokens),
        },
    }


def _plain(value: Any) -> Any:
    return value.isoformat() if hasattr(value, "isoformat") else value


def _mode(mode: StudyMode) -> dict[str, Any]:
    return {
        "mhealth_settings": mode.mhealth_settings,
        "subjects": dict(mode.subjects),
        "kits": {one.inventory_id: _kit(one) for one in mode.kits.values()},
        "devices": {one.inventory_id: asdict(one) for one in mode.devices.values()},
        "exceptions": [written(number, content) for number, content in mode.exceptions.items.items()],
    }


def _kit(kit: Kit) -> dict[str, Any]:
    current = kit.current
    dispensation = None if current is None else {**asdict(current), "at": iso(current.at)}
    return {
        "kit_number": kit.kit_number,
        "connection": kit.connection,
        "device_type": kit.device_type,
        "holder": kit.holder,
        "dispensation": dispensation,
    }
