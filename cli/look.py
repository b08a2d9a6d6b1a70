"""`onboard status` and `onboard show`: what happened, and what to do next. Neither needs Prefect nor the vendors."""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated

from cyclopts import Parameter, validators

from cli import present
from cli.who import actor
from onboarding.advice import advice
from onboarding.errors import BadInput
from onboarding.ledger import batch_progress, batches
from onboarding.ledger.ledger import Ledger, open_ledger
from onboarding.ledger.states import CaseStatus
from onboarding.ledger.views import CaseView
from onboarding.settings import load_settings


def status(
    *,
    json: Annotated[bool, Parameter(negative="")] = False,
    limit: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 50,
    only: Annotated[list[CaseStatus] | None, Parameter(negative="")] = None,
    batch: str | None = None,
) -> int:
    """Show the cases of the ledger, the newest first, and batches that are not all done.

    Args:
        json: print JSON lines instead of a table.
        limit: show so many cases at most; 0 shows all.
        only: show cases with this status only; may be given several times.
        batch: show the cases of this batch only, and how far it is.
    """
    ledger = open_ledger(load_settings(), create=False)
    try:
        batch_id = None if batch is None else _known_batch(ledger, batch)
        cases = ledger.cases(statuses=only or (), batch_id=batch_id, limit=limit or None)
        if json:
            for case in cases:
                present.print_json(present.case_json(case))
            return 0
        _print_cases(ledger, cases, limit, "such cases" if only or batch_id else "cases")
        if batch_id is not None:
            _print_batch(ledger, batch_id)
        elif not only:
            _print_batches(ledger)
    finally:
        ledger.close()
    return 0


def show(
    case: str,
    /,
    *,
    json: Annotated[bool, Parameter(negative="")] = False,
    vendor_text: Annotated[bool, Parameter(negative="")] = False,
    device_credentials: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Show one case: its steps, what to do, and everything that happened to it.

    Args:
        case: the case's id, as `onboard status` prints it.
        json: print one JSON line instead.
        vendor_text: show the vendors' own words too; they can hold personal data.
        device_credentials: show the access code and the one-time code for setting the device up; the trail notes who saw them.
    """
    ledger = open_ledger(load_settings(), create=False)
    try:
        found = ledger.case(case.upper()) if case.isascii() else None  # databases refuse what is no text
        if found is None:
            raise BadInput(
                [f"there is no case {case} in the ledger {ledger.store.place}; 'onboard status' lists them."]
            )
        credentials = ledger.reveal_credentials(found.id, actor()) if device_credentials else {}
        events, problems = ledger.events(found.id), ledger.trail_problems(found.id)
        texts = ledger.vendor_texts(found.id) if vendor_text else {}
    finally:
        ledger.close()
    if json:
        trail = {"events": [present.event_json(event) for event in events], "trail_problems": problems}
        said = {"vendor_text": texts} if vendor_text else {}
        codes = {"device_credentials": credentials} if device_credentials else {}
        present.print_json({**present.case_json(found), **trail, **said, **codes})
        return 0
    out = present.console()
    out.print(f"Case {found.id}: ", present.styled(found.status.value), present.why_and_when(found), soft_wrap=True)
    device = found.inventory_id or "none"
    out.print(
        f"  study {found.study_id}, mode {found.mode}, subject {found.subject_id}, device {device}", soft_wrap=True
    )
    for line in present.case_lines(found):
        out.print(line, soft_wrap=True)
    for step, words in texts.items():
        out.print(f"  the vendor's words on {step}: {words}", soft_wrap=True)
    if device_credentials:
        out.print(f"  device credentials: {_words(credentials) or 'none yet'}", soft_wrap=True)
    if hint := present.how_to_go_on(found):
        out.print(f"  {hint}", soft_wrap=True)
    out.print("Trail" + (" (NOT WHOLE: " + "; ".join(problems) + ")" if problems else " (whole)"))
    for event in events:
        where = f" {event.step}" if event.step else ""
        facts = ", ".join(f"{key}={value}" for key, value in event.detail.items() if value is not None)
        why = f" - {event.reason}" if event.reason else ""
        out.print(
            f"  {event.sequence:>3} {present.moment(event.at)} {event.kind}{where} {event.code or ''} {facts}{why}".rstrip(),
            soft_wrap=True,
        )
    return 0


def _words(credentials: Mapping[str, str]) -> str:
    names = {"accessId": "access code", "otp": "one-time code"}
    return ", ".join(f"{names.get(name, name)} {value}" for name, value in credentials.items())


def _known_batch(ledger: Ledger, given: str) -> str:
    found = batches.batch(ledger, given.upper()) if given.isascii() else None
    if found is None:
        raise BadInput([f"--batch: there is no batch {given!r} in the ledger {ledger.store.place}."])
    return found.id


def _print_batch(ledger: Ledger, batch_id: str) -> None:
    out = present.console()
    counts = batches.counts(ledger, batch_id)
    rows = ", ".join(f"{number} {standing.value.replace('_', ' ')}" for standing, number in counts.rows.items())
    cases = sum(counts.cases.values())
    out.print(f"Batch {batch_id}: {counts.of(CaseStatus.DONE)} of {cases} cases done; rows: {rows}", soft_wrap=True)
    for line in present.count_lines(counts):
        out.print(f"  {line}", soft_wrap=True)


def _print_batches(ledger: Ledger) -> None:
    out = present.console()
    for found in batch_progress.open_batches(ledger):
        name = f" ({found.batch.name})" if found.batch.name else ""
        out.print(
            f"Batch {found.batch.id}{name}: {found.waiting} not done yet, {found.attention} need attention; onboard status "
            f"--batch {found.batch.id}",
            soft_wrap=True,
        )


def _print_cases(ledger: Ledger, cases: list[CaseView], limit: int, what: str) -> None:
    out = present.console()
    if not cases:
        out.print(f"No {what} in the ledger {ledger.store.place}. Start one: onboard subject FILE.json", soft_wrap=True)
        return
    out.print(present.cases_table(cases, out.width))
    counts = Counter(case.status.value for case in cases)
    more = f" (the newest {limit}; --limit 0 shows all)" if limit and len(cases) == limit else ""
    out.print(", ".join(f"{number} {name}" for name, number in counts.most_common()) + more)
    for case in cases:
        if case.status is CaseStatus.ATTENTION:
            out.print(f"{case.id}: {case.reason}: {advice(case.reason)}", soft_wrap=True)
        elif why := present.why_and_when(case):
            out.print(f"{case.id}: {why}", soft_wrap=True)
