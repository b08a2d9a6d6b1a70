"""The auditor: judges what happened from the vendors' side, never from the ledger alone.

It holds the sandbox's effect log and request journal against the ledger's cases and trails. Every rule is a function from
evidence to sentences; no sentence means that the rule holds.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.ledger.views import EventView
from tests.crash.evidence import EFFECT_OF, SENDING, Evidence, Limits, gather, moment, thing
from tests.crash.lateness import applications, applied_late

__all__ = ["DUPLICATES", "RULES", "Evidence", "Limits", "applied_late", "audit", "gather"]

GUARD_LASTS_S: Final = 60.0
ASKED_FOR_CODE: Final = "ASKING_FOR_ACCESS_CODE"
DONE_KINDS: Final = frozenset({"step_applied", "step_found", "step_decided_applied"})
LEAVING: Final = frozenset({"case_waiting", "case_finished", "case_attention", "case_contradicted", "case_cancelled"})


def audit(evidence: Evidence) -> list[str]:
    """Every violation, one sentence each."""
    return [f"{rule.__name__}: {problem}" for rule in RULES for problem in rule(evidence)]


def no_effect_twice(evidence: Evidence) -> Iterator[str]:
    """Each registration is updated once, each device registered once."""
    for applied in applications(evidence):
        if applied.effect != "dnd_exception_created" and applied.repetitions():
            yield f"{applied.effect} happened {len(applied.times)} times to {applied.thing}"


def one_exception_per_content(evidence: Evidence) -> Iterator[str]:
    """However many subjects ask for it, an exception's content exists once."""
    for applied in applications(evidence):
        if applied.effect == "dnd_exception_created" and applied.repetitions():
            yield f"content {applied.thing['content_sha256']} was created {len(applied.times)} times"


def nothing_unasked(evidence: Evidence) -> Iterator[str]:
    """Nothing happened to anything that no case is about, and nothing was undone."""
    kinds: dict[str, StepName] = {effect: step for step, effect in EFFECT_OF.items()}
    kinds |= {"access_code_issued": StepName.DEVICE, "participants_merged": StepName.REGISTRATION}
    for entry in evidence.effects:
        step = kinds.get(entry["effect"])
        about = evidence.cases_about(entry, step) if step else ()
        if step is None:
            yield f"{entry['effect']} is no effect that any step asks for"
        elif not about:
            yield f"{entry['effect']} happened to {thing(entry)}, which no case is about"
        elif entry["effect"] == "participants_merged" and not any(
            (wanted := evidence.asked[case_id].registration) is not None and wanted.allow_merge for case_id in about
        ):
            yield f"{entry['effect']} happened to {thing(entry)}, which no case allowed"


def none_lost(evidence: Evidence) -> Iterator[str]:
    """Each case is done, waits with a time, or is left to a person with a reason; the ledger and the vendors agree."""
    late = {applied.entry["n"] for applied in applied_late(evidence)}
    for case in evidence.cases.values():
        if case.status is CaseStatus.READY and case.due_at is None and not case.blocked and case.lease_left_s <= 0:
            yield f"case {case.id} waits for nothing"
        if case.status is CaseStatus.ATTENTION and not case.reason:
            yield f"case {case.id} needs attention without a reason"
        for name, effect in EFFECT_OF.items():
            status, happened = case.steps[name].status, evidence.effects_of(case.id, name)
            if status is StepStatus.DONE and not happened and not _stood_before(evidence.trails[case.id], name):
                yield f"case {case.id} says that {name} is done, but there is no {effect}"
            if name is StepName.DND_EXCEPTION:
                continue  # it may be another case's
            unknowing = status in (StepStatus.PENDING, StepStatus.REFUSED, StepStatus.NOT_REQUESTED)
            known_in_time = any(entry["n"] not in late for entry in happened)
            if evidence.settled and known_in_time and unknowing:
                yield f"case {case.id} says that {name} is {status}, but there is {effect}"
        if case.status is CaseStatus.DONE and any(
            step.status not in (StepStatus.DONE, StepStatus.NOT_REQUESTED) for step in case.steps.values()
        ):
            yield f"case {case.id} is done, its steps are not"


def order_kept(evidence: Evidence) -> Iterator[str]:
    """A step's first intent comes after every step before it was done; so do the effects."""
    for case_id, trail in evidence.trails.items():
        done: set[str | None] = set()
        requested = [name for name in StepName if evidence.cases[case_id].steps[name].status != "not_requested"]
        for event in trail:
            if event.kind in DONE_KINDS:
                done.add(event.step)
            if event.kind == "step_intent":
                missing = [
                    name for name in requested[: requested.index(StepName(event.step or ""))] if name not in done
                ]
                if missing:
                    yield f"case {case_id} intended {event.step} before {', '.join(missing)} was done"
        first = evidence.effects_of(case_id, StepName.REGISTRATION)
        second = evidence.effects_of(case_id, StepName.DEVICE)
        if first and second and second[0]["n"] < first[0]["n"]:
            yield f"case {case_id}: its device was registered before its registration was updated"


def dispensation_seen(evidence: Evidence) -> Iterator[str]:
    """Before each device registration its dispensation was read, not long ago, and since it was last rolled back."""
    for case_id, asked in evidence.asked.items():
        if asked.device is None:
            continue
        inventory = asked.device.inventory_id
        reads = [entry["monotonic"] for entry in evidence.dispensation_reads(inventory)]
        for send in evidence.sends_of(case_id, "register_device"):
            recent = [at for at in reads if 0 <= send["monotonic"] - at <= GUARD_LASTS_S]
            if not recent:
                yield f"case {case_id}: request {send['n']} registered a device whose dispensation was not read"
                continue
            since = [at for at in evidence.rollbacks(inventory) if at < send["monotonic"]]
            if send["effects"] and since and max(recent) < max(since):
                yield f"case {case_id}: request {send['n']} went by a dispensation that was rolled back since"


def intents_are_older(evidence: Evidence) -> Iterator[str]:
    """Every effect has an intent that is older; every send has one of the very lease in which it was sent, for itself."""
    for case_id, trail in evidence.trails.items():
        for step in (StepName.REGISTRATION, StepName.DEVICE):
            intents = [event for event in trail if event.kind == "step_intent" and event.step == step]
            for entry in evidence.effects_of(case_id, step):
                if not any(event.at <= moment(entry) for event in intents):
                    yield f"case {case_id}: {entry['effect']} has no older intent"
            yield from _unbacked(evidence, case_id, SENDING[step], intents)
        probes = [event for event in trail if event.code == ASKED_FOR_CODE]
        yield from _unbacked(evidence, case_id, "access_code", probes)
    created = [entry for entry in evidence.requests if entry["call"] == "create_exception" and entry["status"] != 401]
    intended = sorted(
        event.at
        for trail in evidence.trails.values()
        for event in trail
        if event.kind == "step_intent" and event.step == StepName.DND_EXCEPTION
    )
    for number, entry in enumerate(created, start=1):
        if bisect_right(intended, moment(entry)) < number:
            yield f"request {entry['n']} created an exception beyond what was intended"


def _unbacked(evidence: Evidence, case_id: str, call: str, intents: Sequence[EventView]) -> Iterator[str]:
    """Sends outside of a lease, or more of them in one lease than it had intents: how a fenced runner would show."""
    trail = evidence.trails[case_id]
    used: Counter[int] = Counter()
    for entry in evidence.sends_of(case_id, call):
        at = moment(entry)
        taken = [event for event in trail if event.kind == "lease_taken" and event.at <= at]
        if not taken:
            yield f"case {case_id}: request {entry['n']} ({call}) was sent before any lease"
            continue
        fence = taken[-1].detail["fence"]
        if any(event.kind in LEAVING and taken[-1].sequence < event.sequence and event.at < at for event in trail):
            yield f"case {case_id}: request {entry['n']} ({call}) was sent after its lease was given back"
        used[fence] += 1
        if sum(event.detail.get("fence") == fence and event.at <= at for event in intents) < used[fence]:
            yield f"case {case_id}: request {entry['n']} ({call}) has no intent of its own under lease {fence}"


def trails_whole(evidence: Evidence) -> Iterator[str]:
    """Every trail verifies, and what was once in it is still there, unchanged."""
    for case_id, problems in evidence.broken.items():
        yield from (f"case {case_id}: {problem}" for problem in problems)
    for snapshot in evidence.snapshots:
        for case_id, before in snapshot.items():
            if list(evidence.trails.get(case_id, ()))[: len(before)] != list(before):
                yield f"case {case_id}: its trail lost or changed an entry"


def attempts_bounded(evidence: Evidence) -> Iterator[str]:
    """No counter passes its limit. A shared exception's sends are counted anew for all its cases when a person looks at it."""
    limits = evidence.limits
    for case in evidence.cases.values():
        for name, step in case.steps.items():
            sends = limits.sends * (1 + (evidence.looks_at_exception(case.id) if name is StepName.DND_EXCEPTION else 0))
            if step.intent.absences > sends or step.intent.probes > limits.probes:
                yield f"case {case.id}: {name} was tried {step.intent.absences} and probed {step.intent.probes} times"
        if case.idle_takings > limits.idle_takings + 1:
            yield f"case {case.id} was taken {case.idle_takings} times without progress"
    for key, absences in evidence.absences.items():
        if absences > limits.sends:
            yield f"exception {key[:12]} was sent {absences} times before a person was asked"


def all_settled(evidence: Evidence) -> Iterator[str]:
    """Once faults have stopped, everything ends without a person, but for what nobody can know."""
    if not evidence.settled:
        return
    for case_id, trail in evidence.trails.items():
        asked = {event.code for event in trail if event.kind in ("case_attention", "case_contradicted")}
        yield from (f"case {case_id} asked for a person ({code})" for code in asked - evidence.for_a_person)
    for case in evidence.cases.values():
        unknown = any(step.status is StepStatus.UNKNOWN for step in case.steps.values())
        if case.status is CaseStatus.ATTENTION and case.reason not in evidence.for_a_person:
            yield f"case {case.id} needs a person ({case.reason}){', something is unknown' if unknown else ''}"
        elif case.status not in (CaseStatus.DONE, CaseStatus.ATTENTION, CaseStatus.CANCELLED):
            yield f"case {case.id} is still {case.status} ({case.reason})"


RULES: Final[Sequence[Callable[[Evidence], Iterator[str]]]] = (
    no_effect_twice,
    one_exception_per_content,
    nothing_unasked,
    none_lost,
    order_kept,
    dispensation_seen,
    intents_are_older,
    trails_whole,
    attempts_bounded,
    all_settled,
)
DUPLICATES: Final = frozenset({"no_effect_twice", "one_exception_per_content"})


def _stood_before(trail: Sequence[EventView], step: StepName) -> bool:
    """Whether it was found as asked for, or a person said that it was, without anything having been sent by this case."""
    mine = [event for event in trail if event.step == step]
    decided = any(event.kind == "step_decided_applied" for event in mine)
    return decided or (
        any(event.kind == "step_found" for event in mine) and not any(event.kind == "step_intent" for event in mine)
    )
