"""What the auditor judges: the sandbox's effect log and request journal, and the ledger's cases and trails.

Times of both sides are UTC of one machine.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select

from onboarding.identifiers import same_id
from onboarding.intake import IntakeRequest
from onboarding.ledger.claims import ClaimKind
from onboarding.ledger.columns import CLAIMS
from onboarding.ledger.ledger import Ledger
from onboarding.ledger.states import StepName
from onboarding.ledger.views import CaseView, EventView
from vendor_sandbox import SandboxControl
from vendor_sandbox.dnd_exceptions import content_sha256, read_exception

EFFECT_OF: Final = {
    StepName.REGISTRATION: "registration_updated",
    StepName.DEVICE: "device_registered",
    StepName.DND_EXCEPTION: "dnd_exception_created",
}
SENDING: Final = {
    StepName.REGISTRATION: "update_registration",
    StepName.DEVICE: "register_device",
    StepName.DND_EXCEPTION: "create_exception",
}
_NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "registration_updated": ("registration_id",),
    "participants_merged": ("registration_id",),
    "dnd_exception_created": ("study_id", "mode", "content_sha256"),
}


@dataclass(frozen=True)
class Limits:
    """How often something may be tried, as the settings say."""

    sends: int = 4
    probes: int = 8
    idle_takings: int = 60


@dataclass(frozen=True)
class Evidence:
    """What is judged.

    Attributes:
        effects: the effect log, in order.
        requests: the request journal, in order.
        cases, trails, asked: each case as it stands, its trail, what it asks for; by case id.
        broken: what the ledger's key says of each trail.
        snapshots: trails as they were read earlier.
        rolled_back: inventory ids and when (the sandbox's monotonic clock) their dispensation was rolled back.
        settled: whether faults have stopped and everything had time to come to rest.
        for_a_person: reason codes with which a case may ask for a person, who may have decided since.
        quiet_s: the quiet time of an intent whose trail entry does not tell it (that of a shared exception), seconds.
        absences: of each exception that cases share, how often a send of it was proven absent since a person was asked.
    """

    effects: Sequence[Mapping[str, Any]]
    requests: Sequence[Mapping[str, Any]]
    cases: Mapping[str, CaseView]
    trails: Mapping[str, Sequence[EventView]]
    asked: Mapping[str, IntakeRequest]
    broken: Mapping[str, Sequence[str]]
    snapshots: Sequence[Mapping[str, Sequence[EventView]]] = ()
    rolled_back: Sequence[tuple[str, float]] = ()
    limits: Limits = field(default_factory=Limits)
    settled: bool = True
    for_a_person: frozenset[str] = frozenset()
    quiet_s: float = inf
    absences: Mapping[str, int] = field(default_factory=dict)

    def looks_at_exception(self, case_id: str) -> int:
        """How often a person was asked, or decided, about the exception of this case: as its own, or as another's of its cases."""
        content = exception_content(self.asked[case_id])
        same = [one for one, asked in self.asked.items() if exception_content(asked) == content]
        return sum(
            event.step == StepName.DND_EXCEPTION
            and (event.code == "SENDS_USED_UP" or event.kind.startswith("step_decided"))
            for one in same
            for event in self.trails[one]
        )

    def effects_of(self, case_id: str, step: StepName) -> list[Mapping[str, Any]]:
        """The effects on what this case's step is about."""
        return [entry for entry in self.effects if is_about(entry, self.asked[case_id], step)]

    def sends_of(self, case_id: str, call: str) -> list[Mapping[str, Any]]:
        """The requests of a call about this case's registration or device; a 401 says that one was not taken."""
        return [
            entry
            for entry in self.requests
            if entry["call"] == call and entry["status"] != 401 and path_is_about(entry["path"], call, self, case_id)
        ]


def gather(ledger: Ledger, control: SandboxControl, effect_log: Path, **known: Any) -> Evidence:
    """Read everything there is; ``known`` are the other attributes of ``Evidence``."""
    cases = {case.id: case for case in ledger.cases()}
    return Evidence(
        effects=[json.loads(line) for line in effect_log.read_bytes().splitlines()] if effect_log.exists() else [],
        requests=control.requests(),
        cases=cases,
        trails={case_id: ledger.events(case_id) for case_id in cases},
        asked={case_id: ledger.request(case_id) for case_id in cases},
        broken={case_id: ledger.trail_problems(case_id) for case_id in cases},
        absences=ledger.store.read(
            lambda c: {
                str(key): int(count)
                for key, count in c.execute(
                    select(CLAIMS.c.key, CLAIMS.c.absences).where(CLAIMS.c.kind == ClaimKind.EXCEPTION)
                )
            }
        ),
        **known,
    )


def thing(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an effect happened to."""
    key: Mapping[str, Any] = entry["key"]
    chosen = _NAMES.get(entry["effect"], ("inventory_id", "registration_id", "participant_id"))
    return {name: key[name] for name in chosen if name in key}


def is_about(entry: Mapping[str, Any], asked: IntakeRequest, step: StepName, *, any_effect: bool = False) -> bool:
    """Whether an effect (the step's own, or any) happened to what this step of the request is about."""
    if not any_effect and entry["effect"] != EFFECT_OF.get(step):
        return False
    key = entry["key"]
    if step is StepName.REGISTRATION:
        return asked.registration is not None and key.get("registration_id") == asked.registration.id
    if step is StepName.DEVICE:
        return asked.device is not None and same_id(str(key.get("inventory_id")), asked.device.inventory_id)
    content = exception_content(asked)
    return content is not None and bool(key.get("content_sha256") == content)


def exception_content(asked: IntakeRequest) -> str | None:
    """The digest by which the sandbox knows the exception that is asked for."""
    section = asked.dnd_exception
    return None if section is None else _content(json.dumps(section.body(), default=float))  # plain, as on the wire


@lru_cache
def _content(body: str) -> str:
    return content_sha256(read_exception(json.loads(body)))


def path_is_about(path: str, call: str, evidence: Evidence, case_id: str) -> bool:
    """Whether a request is about this case's registration or device."""
    asked = evidence.asked[case_id]
    if call in ("update_registration", "read_registration"):
        return asked.registration is not None and path.endswith(f"/{asked.registration.id}")
    # No two cases of one subject ask for different devices in these tests, and a device's path names its subject.
    return asked.device is not None and f"/{asked.subject.subject_id}/" in path


def moment(entry: Mapping[str, Any]) -> datetime:
    """When an effect happened, or a request arrived."""
    return datetime.fromisoformat(entry["at"])
