"""Playing one fault at one request of the flow, and everything that can be seen of it.

A cell of the matrix is a fault at a call, in a case that asks for the call's section alone. It is played by
attempting every step once, without waiting, then taking the fault away and working the case to its end. Cells run many at
a time, since most of their time is waiting for quiet times.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from onboarding.clocks import utc_now
from onboarding.endings import Ending
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.ledger.views import CaseView
from onboarding.steps.case import CaseReport
from tests.steps.lab import SYSTEM_OF, Lab, cloud_to_cloud, due, laboratory, place
from tests.support.requests import example

STEP_OF: Final[Mapping[str, StepName]] = {
    "login": StepName.REGISTRATION,
    "read_registration": StepName.REGISTRATION,
    "update_registration": StepName.REGISTRATION,
    "token": StepName.DISPENSATION,
    "dispensation": StepName.DISPENSATION,
    "dispensation_history": StepName.DISPENSATION,
    "register_device": StepName.DEVICE,
    "access_code": StepName.DEVICE,
    "list_exceptions": StepName.DND_EXCEPTION,
    "create_exception": StepName.DND_EXCEPTION,
}
SECTION_OF: Final[Mapping[StepName, str]] = {
    StepName.REGISTRATION: "registration",
    StepName.DISPENSATION: "device",
    StepName.DEVICE: "device",
    StepName.DND_EXCEPTION: "dnd_exception",
}
EFFECT_OF: Final[Mapping[str, str]] = {
    "registration": "registration_updated",
    "device": "device_registered",
    "dnd_exception": "dnd_exception_created",
}
AT_A_TIME: Final = 12


@dataclass(frozen=True)
class Fault:
    """A fault rule and what it should be taken for; ``code`` is the reason that the step then shows."""

    name: str
    kind: str
    code: str | None
    rule: Mapping[str, Any] = field(default_factory=dict)
    switches: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """A fault at a call, and the class and end that the protocol demands.

    Attributes:
        meaning: ``refused``, ``unavailable``, ``in_doubt``, ``not_yet``, ``login_refused``, ``recovered``, ``unknown``.
        final: ``done``, ``unknown`` or ``blocked`` (by the refused log-in), once the fault is gone.
        sent: how often the faulted request went out while the fault was there.
        connection: ``device_to_cloud`` or ``cloud_to_cloud``.
        lead_in: a fault at an earlier call that brings the flow to this one.
    """

    call: str
    fault: Fault
    meaning: str
    final: str = "done"
    sent: int = 1
    connection: str = "device_to_cloud"
    lead_in: tuple[str, Fault] | None = None

    def __str__(self) -> str:
        after = f"-after-{self.lead_in[1].name}" if self.lead_in else ""
        c2c = "-cloud_to_cloud" if self.connection == "cloud_to_cloud" else ""
        return f"{self.call}-{self.fault.name}{c2c}{after}"


@dataclass(frozen=True)
class Played:
    """What came of a cell: right after the fault (``report``, ``case``, ``sent``) and at the end."""

    report: CaseReport
    case: CaseView
    due_in_s: float | None
    sent: int
    final: CaseView
    effects: Counter[str]
    changes: Counter[str]
    logins: int
    trail_problems: list[str]


Results = Mapping[str, Played | BaseException]
"""What came of each cell, or what went wrong, by the cell's name."""


def asked_for(request: pytest.FixtureRequest, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that the tests of this run want."""
    names = " ".join(item.name for item in request.session.items)
    return [cell for cell in cells if f"[{cell}]" in names]


def play_all(cells: Sequence[Cell], folder: Path) -> Results:
    """Play cells, several at a time; what goes wrong in one is its own result."""

    async def run() -> Results:
        lanes = asyncio.Semaphore(AT_A_TIME)

        async def one(number: int, cell: Cell) -> Played:
            async with lanes:
                return await play(cell, place(folder, f"cell-{number}"))

        played = await asyncio.gather(*(one(n, cell) for n, cell in enumerate(cells)), return_exceptions=True)
        return dict(zip(map(str, cells), played, strict=True))

    return asyncio.run(run())


async def play(cell: Cell, folder: Path) -> Played:
    """Play one cell in a laboratory of its own."""
    # Only what is to run into the deadline needs a short one; on a busy machine others would run into it too.
    answered = cell.meaning in ("refused", "recovered", "not_yet", "login_refused") and cell.lead_in is None
    timeout_s = 6.0 if answered else 1.2
    settings: dict[str, Any] = {"request_timeout_seconds": timeout_s, "settle_seconds": 0.1}
    async with laboratory(folder, switches=cell.fault.switches, **settings) as lab:
        whole = cloud_to_cloud() if cell.connection == "cloud_to_cloud" else example()
        section = SECTION_OF[STEP_OF[cell.call]]
        case_id = await lab.open({name: whole[name] for name in ("subject", section)})
        if cell.lead_in is not None:
            lab.fault(cell.lead_in[0], cell.lead_in[1].kind, **cell.lead_in[1].rule)
        rule = lab.fault(cell.call, cell.fault.kind, **cell.fault.rule)
        report = await _attempt_until_met(lab, case_id, rule)
        sent = len(lab.calls(cell.call))
        case = lab.case(case_id)
        due_in_s = None if case.due_at is None else (case.due_at - utc_now()).total_seconds()
        lab.control.remove_faults()
        await lab.control.wait_idle()
        final = await lab.work_to_the_end(case_id)
        requests, effects = lab.calls(), lab.control.effects()
        return Played(
            report,
            case,
            due_in_s,
            sent,
            final,
            Counter(entry["effect"] for entry in effects),
            Counter(entry["effect"] for entry in effects if entry["changed"]),
            sum(entry["call"] in ("login", "token") for entry in requests),
            lab.bench.ledger.trail_problems(case_id),
        )


async def _attempt_until_met(lab: Lab, case_id: str, rule: int) -> CaseReport:
    """The lead-in needs an attempt of its own, and a machine that stalls can make one end early."""
    for _ in range(4):
        await due(lab.case(case_id))
        report = await lab.attempt(case_id)
        if next(one["applied"] for one in lab.control.faults() if one["id"] == rule):
            return report
    raise AssertionError(f"the fault was not met: {report}")


# What each class demands


def check(cell: Cell, played: Played | BaseException) -> None:
    """Everything that the protocol demands of a cell."""
    if isinstance(played, BaseException):
        raise played
    step = STEP_OF[cell.call]
    _CHECKS[cell.meaning](cell, played, step)
    assert played.sent == cell.sent, "sent again in silence, or not at all"
    if cell.fault.code is not None:
        assert played.report.code == cell.fault.code
    assert played.trail_problems == []
    _check_final(cell, played, step)


def _check_final(cell: Cell, played: Played, step: StepName) -> None:
    statuses = {name: view.status for name, view in played.final.steps.items()}
    if cell.final == "done":
        assert played.final.status is CaseStatus.DONE, (played.final.reason, statuses)
        assert set(statuses.values()) == {StepStatus.DONE, StepStatus.NOT_REQUESTED}
        assert played.changes[EFFECT_OF[SECTION_OF[step]]] == 1
    elif cell.final == "unknown":
        assert played.final.status is CaseStatus.ATTENTION
        assert statuses[step] is StepStatus.UNKNOWN
    else:
        assert cell.final == "blocked"
        assert played.final.status is CaseStatus.READY
        assert played.logins == 1, "a refused log-in was tried again"
    assert all(played.changes[effect] <= 1 for effect in ("registration_updated", "participants_merged"))
    assert all(played.effects[effect] <= 1 for effect in ("device_registered", "dnd_exception_created"))


def _refused(cell: Cell, played: Played, step: StepName) -> None:
    assert played.report.ending is Ending.NEEDS_ATTENTION
    assert played.report.step is step
    assert played.case.status is CaseStatus.ATTENTION
    assert played.case.reason == played.report.code
    assert played.case.due_at is None
    assert played.case.steps[step].status is StepStatus.REFUSED
    assert not played.case.steps[step].intent.in_doubt
    assert played.case.lease_left_s == 0


def _unknown(cell: Cell, played: Played, step: StepName) -> None:
    assert played.report.ending is Ending.NEEDS_ATTENTION
    assert played.case.status is CaseStatus.ATTENTION
    assert played.case.due_at is None
    assert played.case.steps[step].status is StepStatus.UNKNOWN


def _waits(played: Played, step: StepName) -> None:
    assert played.report.ending is Ending.RETRY_SCHEDULED
    assert played.report.step is step
    assert played.case.status is CaseStatus.READY
    assert played.case.reason == played.report.code
    assert played.due_in_s is not None
    assert played.case.lease_left_s == 0


def _unavailable(cell: Cell, played: Played, step: StepName) -> None:
    _waits(played, step)
    assert played.due_in_s is not None
    assert played.due_in_s < 8
    view = played.case.steps[step]
    in_doubt_before = cell.lead_in is not None
    assert (view.status is StepStatus.OPEN) == in_doubt_before
    assert view.intent.in_doubt == in_doubt_before
    assert view.waits >= 1


def _in_doubt(cell: Cell, played: Played, step: StepName) -> None:
    _waits(played, step)
    assert played.case.steps[step].status is StepStatus.OPEN
    assert played.case.steps[step].intent.in_doubt
    assert played.due_in_s is not None
    assert played.due_in_s < 3


def _not_yet(cell: Cell, played: Played, step: StepName) -> None:
    assert played.report.ending is Ending.AWAITING_DISPENSATION
    assert played.report.step is StepName.DISPENSATION
    assert played.case.status is CaseStatus.READY
    assert played.case.steps[StepName.DISPENSATION].status is StepStatus.PENDING
    assert played.case.steps[StepName.DISPENSATION].waiting_since is not None
    doubt = cell.lead_in is not None
    assert played.case.steps[StepName.DEVICE].status is (StepStatus.OPEN if doubt else StepStatus.PENDING)
    assert played.due_in_s is not None
    assert 600 < played.due_in_s < 1000


def _login_refused(cell: Cell, played: Played, step: StepName) -> None:
    _waits(played, step)
    assert played.case.steps[step].status is StepStatus.PENDING


def _recovered(cell: Cell, played: Played, step: StepName) -> None:
    assert played.report.ending is Ending.ONBOARDED


_CHECKS: Final = {
    "refused": _refused,
    "unknown": _unknown,
    "unavailable": _unavailable,
    "in_doubt": _in_doubt,
    "not_yet": _not_yet,
    "login_refused": _login_refused,
    "recovered": _recovered,
}
assert set(SYSTEM_OF) == set(STEP_OF)
