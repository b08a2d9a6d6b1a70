"""Random worlds: what their cases ask for, and the weather they live in."""

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Any, Final

from onboarding.ledger.states import StepName
from tests.crash.faults import FAULTS, NEAR_MISSES, Fault
from tests.steps.lab import Lab
from vendor_sandbox import seed as seeds

CASES: Final = 12
OTHERS_FROM: Final = 900
"""Participants from this number on have no case; some cases ask to be merged with one."""
STORM_LASTS_S: Final = 20.0  # waits double each time: a storm without an end would make the last case wait for minutes
SETTINGS_OF_A_WORLD: Final[dict[str, Any]] = {
    "max_sends": 2,
    "max_probes": 3,
    "max_idle_takings": 15,
    "dispensation_check_seconds": 0.3,
}
"""Limits that a storm can use up: then a person is asked, and decides."""
STEP_OF: Final = {
    **dict.fromkeys(("login", "read_registration", "update_registration"), StepName.REGISTRATION),
    **dict.fromkeys(("dispensation", "dispensation_history", "token"), StepName.DISPENSATION),
    **dict.fromkeys(("register_device", "access_code"), StepName.DEVICE),
    **dict.fromkeys(("list_exceptions", "create_exception"), StepName.DND_EXCEPTION),
}
STORM: Final[list[Fault]] = [*FAULTS, *NEAR_MISSES]
_FAULT_EVERY_S: Final = 0.15
_ROLLBACK_EVERY_S: Final = 1.0
_ROLLED_BACK_FOR_S: Final = 0.4


def request(number: int, *, merging: bool = False) -> dict[str, Any]:
    """What the n-th subject asks for; the sixth next shares its exception, the next one has another type of device.

    ``merging``: its registration is of another participant than it says, who is to be merged with this one.
    """
    one = seeds.SeededSubject(number)
    device: dict[str, Any] = {"inventory_id": one.inventory_id, "m_subject_id": one.m_subject_id}
    if one.connection == "CloudtoCloud":
        device["vendor_code"] = "VENDOR-1"
    else:
        device["subject_number"] = one.subject_number
    person = seeds.SeededSubject(OTHERS_FROM + number).participant_id if merging else one.participant_id
    return {
        "registration": {
            "id": one.registration_id,
            "cp_id": seeds.CP_ID,
            "participant": {"id": person},
            **({"allow_merge": True} if merging else {}),
            "external_subject_id": f"TEST_{number:04d}",
            "registration_date": "2014-04-21",
        },
        "subject": {"study_id": seeds.STUDY_ID, "mode": "test", "subject_id": one.subject_id},
        "device": device,
        "dnd_exception": {
            "all_countries": False,
            "countries": ["US" if number % 2 else "DE"],
            "kit_type_src_ids": [seeds.KIT_TYPE_ID],
            "visit_dnd": [{"visit_src_id": seeds.VISIT_ID, "dnd": 1 + number // 2 % 3}],
        },
    }


def world_seed() -> dict[str, Any]:
    """Every case's subject, and people without a registration to be merged with."""
    seed = seeds.many(CASES)
    others = [seeds.SeededSubject(OTHERS_FROM + number).participant_id for number in range(1, CASES + 1)]
    seed["openspecimen"]["participants"] += [{"id": other, "vitalStatus": "Alive"} for other in others]
    return seed


def requests_of(number: int) -> list[dict[str, Any]]:
    """What the cases of a world ask for: one in six is merged, some ask for no update or no device."""
    draw = random.Random(f"{number} requests")  # noqa: S311 - no secret
    wanted = [request(case, merging=draw.random() < 1 / 6) for case in range(1, CASES + 1)]
    for one in wanted:
        for section in draw.choice([(), (), ("registration",), ("registration", "device")]):
            del one[section]
    return wanted


def other_addresses(environment: Mapping[str, str]) -> dict[str, str]:
    """The same systems under other names: to the ledger they are others."""
    name = "ONBOARDING_CLINICAL_ONE_URL"
    return {**environment, name: environment[name].replace("127.0.0.1", "localhost")}


class Weather:
    """Faults of a world's vendors, and dispensations that are rolled back for a while, until the storm is over."""

    def __init__(self, lab: Lab, number: int) -> None:
        self._lab = lab
        self._number = number

    async def rage(self) -> None:
        """Until the storm is over, or this is cancelled; whatever was rolled back is dispensed again then."""
        await asyncio.gather(self._faults(), self._rollbacks())

    async def _faults(self) -> None:
        draw = random.Random(f"{self._number} faults")  # noqa: S311 - no secret
        end = time.monotonic() + STORM_LASTS_S
        while time.monotonic() < end:
            fault = draw.choice(STORM)
            rule = {**fault.rule, "nth": draw.randint(1, 3)}
            await asyncio.to_thread(self._lab.fault, fault.call, fault.kind, **rule)
            await asyncio.sleep(_FAULT_EVERY_S)

    async def _rollbacks(self) -> None:
        draw = random.Random(f"{self._number} rollbacks")  # noqa: S311 - no secret
        end = time.monotonic() + STORM_LASTS_S
        while time.monotonic() < end:
            one = seeds.SeededSubject(draw.randint(1, CASES))
            kit = (seeds.STUDY_ID, "test", one.inventory_id)
            if not await asyncio.to_thread(self._lab.control.roll_back, *kit):
                continue
            try:
                await asyncio.sleep(_ROLLED_BACK_FOR_S)
            finally:
                self._lab.control.dispense(*kit, one.subject_id, visit_id=seeds.VISIT_ID)
            await asyncio.sleep(_ROLLBACK_EVERY_S)
