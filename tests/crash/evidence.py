"""What the auditor judges: the sandbox's effect log and request journal, and the ledger's cases and trails.

Times of both sides are UTC of one machine. What belongs together is found once, since a batch has thousands of cases.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from math import inf
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select

from onboarding.identifiers import normalise_id
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
_STEP_OF: Final = {effect: step for step, effect in EFFECT_OF.items()}
_OF_A_REGISTRATION: Final = frozenset({"update_registration", "read_registration"})
_IDS: Final = re.compile(r"(?=([0-9A-F]{32}))")  # overlapping ones too: all that a search for an id would find
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
        return self._looks_at_exceptions[self._contents[case_id]]

    def effects_of(self, case_id: str, step: StepName) -> Sequence[Mapping[str, Any]]:
        """The effects on what this case's step is about."""
        what = self._thing_of(case_id, step)
        return () if what is None else self._effects_on.get((step, what), ())

    def sends_of(self, case_id: str, call: str) -> list[Mapping[str, Any]]:
        """The requests of a call about this case's registration or device; a 401 says that one was not taken."""
        return [entry for entry in self.requests_about(case_id, call) if entry["status"] != 401]

    def requests_about(self, case_id: str, call: str) -> Sequence[Mapping[str, Any]]:
        """The requests of a call about this case's registration or device."""
        name = _name_in_paths(self.asked[case_id], call)
        return () if name is None else self._requests_naming.get((call, name), ())

    def dispensation_reads(self, inventory_id: str) -> list[Mapping[str, Any]]:
        """The requests that were answered with this device's dispensation."""
        return self._dispensation_reads.get(inventory_id, [])

    def rollbacks(self, inventory_id: str) -> list[float]:
        """When this device's dispensation was rolled back."""
        return self._rollbacks.get(inventory_id, [])

    def cases_about(self, entry: Mapping[str, Any], step: StepName) -> Sequence[str]:
        """The cases of which this step is about what an effect, the step's own or another, happened to."""
        what = _thing_hit(entry, step)
        return () if what is None else self._cases_with.get((step, what), ())

    @cached_property
    def arrivals(self) -> Mapping[int, datetime]:
        """When each request arrived, by its number."""
        return {entry["n"]: moment(entry) for entry in self.requests}

    def _thing_of(self, case_id: str, step: StepName) -> int | str | None:
        return self._contents[case_id] if step is StepName.DND_EXCEPTION else _thing_asked(self.asked[case_id], step)

    @cached_property
    def _contents(self) -> Mapping[str, str | None]:
        return {case_id: exception_content(asked) for case_id, asked in self.asked.items()}

    @cached_property
    def _looks_at_exceptions(self) -> Mapping[str | None, int]:
        looks: Counter[str | None] = Counter()
        for case_id, content in self._contents.items():
            looks[content] += sum(
                event.step == StepName.DND_EXCEPTION
                and (event.code == "SENDS_USED_UP" or event.kind.startswith("step_decided"))
                for event in self.trails[case_id]
            )
        return looks

    @cached_property
    def _effects_on(self) -> Mapping[tuple[StepName, int | str], Sequence[Mapping[str, Any]]]:
        found = defaultdict(list)
        for entry in self.effects:
            step = _STEP_OF.get(entry["effect"])
            what = None if step is None else _thing_hit(entry, step)
            if step is not None and what is not None:
                found[step, what].append(entry)
        return found

    @cached_property
    def _cases_with(self) -> Mapping[tuple[StepName, int | str], Sequence[str]]:
        found = defaultdict(list)
        for case_id in self.asked:
            for step in EFFECT_OF:
                what = self._thing_of(case_id, step)
                if what is not None:
                    found[step, what].append(case_id)
        return found

    @cached_property
    def _requests_naming(self) -> Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]:
        found = defaultdict(list)
        for entry in self.requests:
            for name in _names_in(entry["path"], entry["call"]):
                found[entry["call"], name].append(entry)
        return found

    @cached_property
    def _dispensation_reads(self) -> Mapping[str, list[Mapping[str, Any]]]:
        found = defaultdict(list)
        for entry in self.requests:
            if entry["call"] == "dispensation" and entry["status"] == 200:
                for inventory_id in set(_IDS.findall(entry["path"])):
                    found[inventory_id].append(entry)
        return found

    @cached_property
    def _rollbacks(self) -> Mapping[str, list[float]]:
        found = defaultdict(list)
        for inventory_id, at in self.rolled_back:
            found[inventory_id].append(at)
        return found


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


def is_about(entry: Mapping[str, Any], asked: IntakeRequest, step: StepName) -> bool:
    """Whether an effect is the step's own, and happened to what this step of the request is about."""
    if entry["effect"] != EFFECT_OF.get(step):
        return False
    what = _thing_asked(asked, step)
    return what is not None and what == _thing_hit(entry, step)


def _thing_asked(asked: IntakeRequest, step: StepName) -> int | str | None:
    """What a step of a request is about, as ``_thing_hit`` names it."""
    if step is StepName.REGISTRATION:
        return None if asked.registration is None else asked.registration.id
    if step is StepName.DEVICE:
        return None if asked.device is None else _plain(asked.device.inventory_id)
    return exception_content(asked)


def _thing_hit(entry: Mapping[str, Any], step: StepName) -> int | str | None:
    """Which registration, device or exception's content an effect happened to; None if it does not say one."""
    key: Mapping[str, Any] = entry["key"]
    if step is StepName.REGISTRATION:
        return key.get("registration_id")
    if step is StepName.DEVICE:
        return _plain(str(key.get("inventory_id")))
    return key.get("content_sha256")


def _plain(text: str) -> str | None:
    """The one form of an id; None of what is no id, which is the same as nothing."""
    try:
        return normalise_id(text)
    except ValueError:
        return None


def exception_content(asked: IntakeRequest) -> str | None:
    """The digest by which the sandbox knows the exception that is asked for."""
    section = asked.dnd_exception
    return None if section is None else _content(json.dumps(section.body(), default=float))  # plain, as on the wire


@lru_cache
def _content(body: str) -> str:
    return content_sha256(read_exception(json.loads(body)))


def _names_in(path: str, call: str | None) -> Iterable[str]:
    """The parts of a request's path that may name what it is about: a registration stands last, a subject before others."""
    parts = path.split("/")[1:]
    if call in _OF_A_REGISTRATION:
        return parts[-1:]
    return dict.fromkeys(parts[:-1])


def _name_in_paths(asked: IntakeRequest, call: str) -> str | None:
    """What names this request's registration or device in the paths of a call."""
    if call in _OF_A_REGISTRATION:
        return None if asked.registration is None else str(asked.registration.id)
    # No two cases of one subject ask for different devices in these tests, and a device's path names its subject.
    return None if asked.device is None else asked.subject.subject_id


def moment(entry: Mapping[str, Any]) -> datetime:
    """When an effect happened, or a request arrived."""
    return datetime.fromisoformat(entry["at"])
