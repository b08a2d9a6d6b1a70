"""How cases are shown: tables for people, JSON lines for programs. No personal data and no credential is in either."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from onboarding.advice import advice
from onboarding.endings import EXIT_ATTENTION, EXIT_ONBOARDED, EXIT_WAITING
from onboarding.errors import CLINICAL_ONE, OPENSPECIMEN
from onboarding.ledger.batches import BatchCounts
from onboarding.ledger.deciding import Decision, offered, step_to_decide
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.ledger.views import CaseView, EventView, StepView

_STYLES: Final[Mapping[str, str]] = {
    "done": "green",
    "ready": "yellow",
    "pending": "default",
    "open": "yellow",
    "refused": "red",
    "unknown": "bold red",
    "attention": "red",
    "cancelled": "dim",
    "not_requested": "dim",
}
STEP_TITLES: Final = {
    StepName.REGISTRATION: "registration",
    StepName.DISPENSATION: "dispensation",
    StepName.DEVICE: "device",
    StepName.DND_EXCEPTION: "DND exception",
}


_COUNTED_AS: Final[Mapping[CaseStatus, str]] = {
    CaseStatus.READY: "waiting",
    CaseStatus.ATTENTION: "needs attention",
    CaseStatus.CANCELLED: "cancelled",
}
_STATUS_COLUMN: Final = 24
_WIDE_TABLE: Final = 120
_PASSED: Final = (StepStatus.DONE, StepStatus.NOT_REQUESTED)


def console(*, wide: bool = True) -> Console:
    """Where people read. Tables keep their columns when the output is no terminal."""
    found = Console(highlight=False, markup=False, emoji=False)
    if wide and not found.is_terminal:
        found.width = max(found.width, 150)
    return found


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON line."""
    print(json.dumps(value, default=_plain))  # in ASCII, which every pipe and terminal takes


def case_json(case: CaseView) -> dict[str, Any]:
    """A case as programs read it."""
    return {
        "case": case.id,
        "study": case.study_id,
        "mode": case.mode,
        "subject": case.subject_id,
        "device": case.inventory_id,
        "batch": case.batch_id,
        "status": case.status.value,
        "reason": case.reason,
        "what_to_do": advice(case.reason) or None,
        "due_at": case.due_at if case.status is CaseStatus.READY else None,
        "being_worked": case.lease_left_s > 0,
        "times_worked": case.takings,
        "flow_run": case.flow_run_id,
        "created_at": case.created_at,
        "updated_at": case.updated_at,
        "steps": [step_json(step) for step in case.steps.values()],
    }


def step_json(step: StepView) -> dict[str, Any]:
    """A step as programs read it."""
    return {
        "step": step.name.value,
        "status": step.status.value,
        "in_doubt": step.intent.in_doubt,
        "attempts": step.intent.attempts,
        "code": step.code,
        "http_status": step.http_status,
        "what_to_do": step_advice(step) or None,
        "outcome": dict(step.outcome),
        "updated_at": step.updated_at,
        "done_at": step.done_at,
    }


def event_json(event: EventView) -> dict[str, Any]:
    """An entry of the trail as programs read it."""
    return {
        "sequence": event.sequence,
        "at": event.at,
        "actor": event.actor,
        "kind": event.kind,
        "step": event.step,
        "code": event.code,
        "detail": dict(event.detail),
        "reason": event.reason,
    }


def cases_table(cases: Sequence[CaseView], width: int, title: str | None = None) -> Table:
    """Cases as a table, a column for each step; on a narrow terminal only the step where each case stands."""
    table = Table(title=title, title_justify="left", header_style="bold")
    if width < _WIDE_TABLE:
        for heading in ("case", "subject", "mode", "status", "stands at"):
            table.add_column(heading, no_wrap=heading == "case", overflow="fold")
        for case in cases:
            table.add_row(case.id, f"..{case.subject_id[-8:]}", case.mode, styled(case.status.value), _stands_at(case))
        return table
    for heading in ("case", "subject", "mode", "status", *STEP_TITLES.values(), "why, and when"):
        table.add_column(heading, no_wrap=heading == "case", overflow="fold")
    for case in cases:
        steps = [styled(case.steps[name].status.value) for name in StepName]
        table.add_row(
            case.id, f"..{case.subject_id[-8:]}", case.mode, styled(case.status.value), *steps, why_and_when(case)
        )
    return table


def _stands_at(case: CaseView) -> Text:
    step = next((step for step in case.steps.values() if step.status not in _PASSED), None)
    return Text("") if step is None else Text(f"{STEP_TITLES[step.name]} ") + styled(step.status.value)


def why_and_when(case: CaseView) -> str:
    """Why a case is not done, and when it is looked at again."""
    if case.lease_left_s > 0:
        return "being worked now"
    words = [case.reason] if case.reason else []
    if case.blocked:
        words.append("until the log-in's settings change")
    elif case.status is CaseStatus.READY and case.due_at is not None:
        words.append(f"due {moment(case.due_at)}")
    return ", ".join(words)


def how_to_go_on(case: CaseView) -> str:
    """What a person does next about a case that is not done, and when it goes on by itself."""
    resume = f"onboard resume {case.id}"
    choices = [decision for decision in offered(case) if decision is not Decision.RETRY]
    decide = f"onboard decide {case.id} {'|'.join(choices)} --reason '...'" if choices else ""
    step = step_to_decide(case)
    if step is not None and step.name is StepName.DND_EXCEPTION and Decision.APPLIED in choices:
        decide += " (applied: with --exception-id and its id in Clinical One)"
    if case.status is CaseStatus.ATTENTION and Decision.RETRY not in offered(case):
        return f"when you know: {decide}"
    if case.status is CaseStatus.ATTENTION:
        return f"when that is mended: {resume}; else: {decide}" if decide else f"when that is mended: {resume}"
    why = why_and_when(case)
    if case.status is not CaseStatus.READY or not why:
        return ""
    if case.lease_left_s > 0:
        return why
    if case.blocked:  # a resume would not even try the log-in
        return (
            f"{why}; then: {resume}. If the account was mended on the other side: onboard doctor --try-login-again, then "
            f"{resume}"
        )
    return f"{why}; sooner with: {resume}"


def case_lines(case: CaseView) -> Iterable[Text]:
    """A line for each step that was asked for, and one for the case's own reason, with what to do."""
    yield from step_lines(case)
    if case.status is CaseStatus.ATTENTION and case.reason not in {step.code for step in case.steps.values()}:
        yield Text(f"  {case.reason}: {advice(case.reason)}")


def step_lines(case: CaseView) -> Iterable[Text]:
    """A line for each step that was asked for, with its status, its code and what to do."""
    for step in case.steps.values():
        if step.status is StepStatus.NOT_REQUESTED:
            continue
        line = Text(f"  {STEP_TITLES[step.name]:<14}") + styled(step.status.value)
        if step.code:
            status = f" (HTTP {step.http_status})" if step.http_status else ""
            line.pad_right(max(0, _STATUS_COLUMN - len(line)))
            line.append(f"  {step.code}{status}: {step_advice(step)}")
        yield line


def step_advice(step: StepView) -> str:
    """What to do about a step's code; it names the system's address where that could be wrong."""
    return advice(step.code, OPENSPECIMEN if step.name is StepName.REGISTRATION else CLINICAL_ONE)


def styled(word: str) -> Text:
    """A status in its colour."""
    return Text(word.replace("_", " "), style=_STYLES.get(word, "default"))


def moment(at: datetime) -> str:
    """A moment for people: local time to the second, with its offset."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def count_lines(counts: BatchCounts) -> Iterator[str]:
    """A line for each reason why cases are not done, the most frequent first, with what to do."""
    rest = {key: number for key, number in counts.cases.items() if key[0] is not CaseStatus.DONE}
    for (status, reason), number in sorted(rest.items(), key=lambda entry: (entry[0][0], -entry[1])):
        if reason is None:
            yield (
                f"{number} not worked yet"
                if status is CaseStatus.READY
                else f"{number} {_COUNTED_AS.get(status, status)}"
            )
        else:
            yield f"{number} {_COUNTED_AS.get(status, status)}: {reason}: {advice(reason)}"


def exit_status(cases: Iterable[CaseView]) -> int:
    """0 if all are onboarded, 4 if one needs attention, else 3."""
    statuses = {case.status for case in cases}
    if CaseStatus.ATTENTION in statuses or CaseStatus.CANCELLED in statuses:
        return EXIT_ATTENTION
    return EXIT_WAITING if statuses - {CaseStatus.DONE} else EXIT_ONBOARDED


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)
