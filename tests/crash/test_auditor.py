"""The auditor finds nothing where all is well, and each kind of violation where one was planted."""

import asyncio
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import text

from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.ledger.views import EventView, StepView
from tests.crash.auditor import RULES, Evidence, Limits, audit, gather
from tests.crash.points import SETTINGS, judged, trails
from tests.steps.lab import cloud_to_cloud, laboratory
from tests.support.requests import INVENTORY_ID, example

LATER: Final = timedelta(days=1)


def onboarded(folder: Path) -> Evidence:
    """What there is after two cases that share an exception were onboarded, one of them through a doubt and its probe."""

    async def onboard() -> Evidence:
        async with laboratory(folder, **SETTINGS) as lab:
            lab.fault("register_device", "cut", when="after")
            for request in (example(), cloud_to_cloud()):
                await lab.onboard(request)
            return await judged(lab)

    return asyncio.run(onboard())


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return onboarded(tmp_path_factory.mktemp("judged"))


def test_nothing_is_found_where_all_is_well(evidence: Evidence) -> None:
    assert len(evidence.effects) == 6, "five effects, and the access code of the probe"
    assert audit(evidence) == []


Plant = Callable[[Evidence], Evidence]


def with_effects(change: Callable[[list[dict[str, Any]]], None]) -> Plant:
    def plant(evidence: Evidence) -> Evidence:
        effects = deepcopy(list(map(dict, evidence.effects)))
        change(effects)
        return replace(evidence, effects=effects)

    return plant


def with_requests(change: Callable[[list[dict[str, Any]]], None]) -> Plant:
    def plant(evidence: Evidence) -> Evidence:
        requests = deepcopy(list(map(dict, evidence.requests)))
        change(requests)
        return replace(evidence, requests=requests)

    return plant


def with_trail(change: Callable[[list[EventView]], list[EventView]]) -> Plant:
    def plant(evidence: Evidence) -> Evidence:
        first = _first(evidence)
        return replace(evidence, trails={**evidence.trails, first: change(list(evidence.trails[first]))})

    return plant


def with_case(**values: Any) -> Plant:
    def plant(evidence: Evidence) -> Evidence:
        first = _first(evidence)
        return replace(evidence, cases={**evidence.cases, first: replace(evidence.cases[first], **values)})

    return plant


def with_step(name: StepName, change: Callable[[StepView], StepView]) -> Plant:
    def plant(evidence: Evidence) -> Evidence:
        steps = evidence.cases[_first(evidence)].steps
        return with_case(steps={**steps, name: change(steps[name])})(evidence)

    return plant


def with_exceptions_sent(times: int) -> Plant:
    def plant(evidence: Evidence) -> Evidence:
        assert evidence.absences, "the ledger knows the shared exception"
        return replace(evidence, absences=dict.fromkeys(evidence.absences, times))

    return plant


def _first(evidence: Evidence) -> str:
    """The device-to-cloud case, whose registration was in doubt."""
    return next(one for one, case in evidence.cases.items() if case.inventory_id == INVENTORY_ID)


def find(entries: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    return next(entry for entry in entries if wanted.items() <= entry.items())


def again(effect: str) -> Plant:
    return with_effects(lambda effects: effects.append({**find(effects, effect=effect), "n": 99}))


def without(effect: str) -> Plant:
    return with_effects(lambda effects: effects.remove(find(effects, effect=effect)))


def sent_again(call: str, **changes: Any) -> Plant:
    def change(requests: list[dict[str, Any]]) -> None:
        number = requests.index(find(requests, call=call))
        requests.insert(number + 1, {**requests[number], **changes})

    return with_requests(change)


def sent_at(call: str, moment: timedelta) -> Plant:
    def change(requests: list[dict[str, Any]]) -> None:
        entry = find(requests, call=call)
        entry["at"] = (datetime.fromisoformat(entry["at"]) + moment).isoformat()

    return with_requests(change)


def overtaken(evidence: Evidence) -> Evidence:
    """Another runner took the lease just before the registration was sent with the first one's intent."""

    def change(trail: list[EventView]) -> list[EventView]:
        intent = next(event for event in trail if event.kind == "step_intent")
        taken = next(event for event in trail if event.kind == "lease_taken")
        other = replace(taken, at=intent.at, sequence=intent.sequence, detail={**taken.detail, "fence": 2})
        return sorted([*trail, other], key=lambda event: event.sequence)

    return with_trail(change)(evidence)


def intent_first(trail: list[EventView]) -> list[EventView]:
    device = next(event for event in trail if event.kind == "step_intent" and event.step == "device")
    return [device, *(event for event in trail if event is not device)]


def no_reads(requests: list[dict[str, Any]]) -> None:
    requests[:] = [entry for entry in requests if entry["call"] != "dispensation"]


def old_reads(requests: list[dict[str, Any]]) -> None:
    for entry in requests:
        if entry["call"] == "dispensation":
            entry["monotonic"] -= 61


def rolled_back(evidence: Evidence) -> Evidence:
    send = find(list(map(dict, evidence.requests)), call="register_device")
    return replace(evidence, rolled_back=[(INVENTORY_ID, send["monotonic"] - 0.0001)])


def counted(**counts: Any) -> Callable[[StepView], StepView]:
    return lambda step: replace(step, intent=replace(step.intent, **counts))


def marked(status: StepStatus) -> Callable[[StepView], StepView]:
    return lambda step: replace(step, status=status)


def swapped(effects: list[dict[str, Any]]) -> None:
    first = find(effects, effect="registration_updated")
    second = find(effects, effect="device_registered")
    first["n"], second["n"] = second["n"], first["n"]


def merged(effects: list[dict[str, Any]]) -> None:
    effects.append({**find(effects, effect="registration_updated"), "effect": "participants_merged", "n": 99})


def asked_for_a_person(trail: list[EventView]) -> list[EventView]:
    return [*trail, replace(trail[-1], kind="case_attention", code="WHATEVER")]


def stranger(effects: list[dict[str, Any]]) -> None:
    entry = find(effects, effect="registration_updated")
    effects.append({**entry, "key": {**entry["key"], "registration_id": 7}})


def younger(effects: list[dict[str, Any]]) -> None:
    find(effects, effect="registration_updated")["at"] = "2020-01-01T00:00:00+00:00"


def shortened(evidence: Evidence) -> Evidence:
    return replace(with_trail(lambda trail: trail[:-1])(evidence), snapshots=[evidence.trails])


def rewritten(evidence: Evidence) -> Evidence:
    changed = with_trail(lambda trail: [replace(trail[0], actor="somebody"), *trail[1:]])(evidence)
    return replace(changed, snapshots=[evidence.trails])


PLANTED: Final[list[tuple[str, str, Plant]]] = [
    ("a registration updated twice", "no_effect_twice", again("registration_updated")),
    ("a device registered twice", "no_effect_twice", again("device_registered")),
    ("an exception created twice", "one_exception_per_content", again("dnd_exception_created")),
    ("an effect on something else", "nothing_unasked", with_effects(stranger)),
    (
        "an effect that no step has",
        "nothing_unasked",
        with_effects(lambda effects: effects.append({**effects[0], "effect": "device_deregistered"})),
    ),
    ("a merge that nobody allowed", "nothing_unasked", with_effects(merged)),
    ("a registration done without its effect", "none_lost", without("registration_updated")),
    ("a device done without its effect", "none_lost", without("device_registered")),
    ("an effect that the ledger denies", "none_lost", with_step(StepName.DEVICE, marked(StepStatus.REFUSED))),
    ("a case that waits for nothing", "none_lost", with_case(status=CaseStatus.READY, due_at=None)),
    ("attention without a reason", "none_lost", with_case(status=CaseStatus.ATTENTION, reason=None)),
    ("effects in the wrong order", "order_kept", with_effects(swapped)),
    ("an intent before the step before it was done", "order_kept", with_trail(intent_first)),
    ("a device sent without a look", "dispensation_seen", with_requests(no_reads)),
    ("a device sent after an old look", "dispensation_seen", with_requests(old_reads)),
    ("a device sent after a rollback", "dispensation_seen", rolled_back),
    ("an effect older than its intent", "intents_are_older", with_effects(younger)),
    ("a registration sent twice with one intent", "intents_are_older", sent_again("update_registration")),
    ("a device sent twice with one intent", "intents_are_older", sent_again("register_device")),
    ("an access code asked for twice with one intent", "intents_are_older", sent_again("access_code")),
    ("an exception sent twice with one intent", "intents_are_older", sent_again("create_exception")),
    ("a send before any lease", "intents_are_older", sent_at("register_device", -LATER)),
    ("a send after the lease was given back", "intents_are_older", sent_at("register_device", LATER)),
    ("a send by a runner that was overtaken", "intents_are_older", overtaken),
    ("a trail that lost an entry", "trails_whole", shortened),
    ("a trail with a changed entry", "trails_whole", rewritten),
    ("more sends than allowed", "attempts_bounded", with_step(StepName.DEVICE, counted(absences=5))),
    (
        "more sends of an exception by one case than allowed",
        "attempts_bounded",
        with_step(StepName.DND_EXCEPTION, counted(absences=5)),
    ),
    ("more sends of an exception by all than allowed", "attempts_bounded", with_exceptions_sent(5)),
    ("more probes than allowed", "attempts_bounded", with_step(StepName.DEVICE, counted(probes=9))),
    ("more takings than allowed", "attempts_bounded", with_case(idle_takings=62)),
    ("a case left to a person", "all_settled", with_case(status=CaseStatus.ATTENTION, reason="WHATEVER")),
    ("a case that asked a person and went on", "all_settled", with_trail(asked_for_a_person)),
    ("a case that hangs", "all_settled", with_case(status=CaseStatus.READY, due_at=datetime.now(UTC))),
]


@pytest.mark.parametrize(("rule", "plant"), [row[1:] for row in PLANTED], ids=[row[0] for row in PLANTED])
def test_a_planted_violation_is_caught(evidence: Evidence, rule: str, plant: Plant) -> None:
    assert any(problem.startswith(f"{rule}: ") for problem in audit(plant(evidence)))


def test_every_rule_has_a_violation_planted() -> None:
    assert {row[1] for row in PLANTED} == {rule.__name__ for rule in RULES}


def test_a_replay_after_a_401_is_no_second_send(evidence: Evidence) -> None:
    assert audit(sent_again("register_device", status=401)(evidence)) == []


def test_an_unsettled_world_is_not_blamed_for_what_still_waits(evidence: Evidence) -> None:
    waiting = with_case(status=CaseStatus.READY, due_at=datetime.now(UTC))(evidence)
    assert audit(replace(waiting, settled=False)) == []


def test_what_is_left_to_a_person_for_an_expected_reason_is_settled(evidence: Evidence) -> None:
    left = with_case(status=CaseStatus.ATTENTION, reason="MERGE_IN_DOUBT")(evidence)
    assert audit(replace(left, for_a_person=frozenset({"MERGE_IN_DOUBT"}))) == []


async def test_a_tampered_ledger_is_caught(tmp_path: Path) -> None:
    async with laboratory(tmp_path, **SETTINGS) as lab:
        await lab.onboard(example())
        whole: Mapping[str, Any] = trails(lab)

        def tamper(connection: Any) -> None:
            for (name,) in connection.execute(
                text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'onboarding_event'")
            ).all():
                connection.execute(text(f"DROP TRIGGER {name}"))
            connection.execute(text("UPDATE onboarding_event SET code = 'UPDATED?' WHERE code = 'UPDATED'"))

        lab.bench.ledger.store.write(tamper)
        found = audit(gather(lab.bench.ledger, lab.control, lab.effect_log, snapshots=[whole], limits=Limits()))
        assert [problem for problem in found if "was changed" in problem]
        assert [problem for problem in found if "lost or changed an entry" in problem]
