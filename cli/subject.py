"""`onboard subject`: onboard one subject."""

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from cli import doors, present
from cli.running import run
from cli.who import actor
from cli.worked import say_worked
from onboarding.errors import BadInput
from onboarding.intake import IntakeRequest, parse_request
from onboarding.settings import Settings, load_settings
from onboarding.steps.planning import Action, PlanLine
from onboarding.workbench import check_mode, open_workbench

_LARGEST_FILE = 1024 * 1024
Flag = Annotated[bool, Parameter(negative="")]


def _no_option(_type: object, file: str | None) -> None:
    if file is not None and file.startswith("-") and file != "-":
        raise ValueError(f"there is no option {file}; a file of this name is written ./{file}.")


FileArgument = Annotated[str, Parameter(allow_leading_hyphen=True, validator=_no_option)]  # else - is no argument


def subject(file: FileArgument, /, *, dry_run: Flag = False, json: Flag = False) -> int:
    """Onboard one subject from a JSON file.

    Args:
        file: the request, or - for standard input.
        dry_run: read only, and show what would be done; nothing is sent or stored.
        json: print JSON lines.
    """
    request = parse_request(read_file(file))
    settings = load_settings()
    check_mode(request, settings)
    for warning in request.warnings():
        print(f"onboard: note: {warning}", file=sys.stderr)
    work = _plan(settings, request, json) if dry_run else _onboard(settings, request, json)
    return run(work)


async def _onboard(settings: Settings, request: IntakeRequest, json: bool) -> int:
    api = doors.prefect_api()
    found = await doors.connections(settings, api)
    async with open_workbench(settings, found, actor=actor()) as bench:
        opened, worked = await doors.open_and_work(bench, request, doors.door_for(api))
    notes = [] if opened.created else ["the case stood already"]
    if opened.replaced:
        notes.append(f"its {', '.join(opened.replaced)} was replaced by the changed request")
    return say_worked(worked, observed=api is not None, json=json, notes=notes)


async def _plan(settings: Settings, request: IntakeRequest, json: bool) -> int:
    api = doors.prefect_api()
    found = await doors.connections(settings, api)
    coded = request.without_personal_data()
    if api is not None and coded.vendor_json() == request.vendor_json():  # else its details would enter Prefect
        await doors.observed_plan(coded)
    lines = await doors.show_plan(settings, found, request)
    if json:
        for line in lines:
            present.print_json(plan_json(line))
    else:
        present.console().print(_plan_table(lines))
        present.console().print("Dry run: nothing was sent, and no case was opened.")
    refused = any(line.action in (Action.REFUSE, Action.UNREADABLE) for line in lines)
    waits = any(line.action is Action.WAIT for line in lines)
    return 4 if refused else 3 if waits else 0


def read_file(file: str) -> bytes:
    """What a file holds, or standard input for ``-``; no more than any request has, and a little. Raises ``BadInput``."""
    if file == "-":
        return sys.stdin.buffer.read(_LARGEST_FILE + 1)
    try:
        with Path(file).open("rb") as source:
            return source.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise BadInput([f"{file}: cannot be read ({error.strerror or type(error).__name__})."]) from None


def plan_json(line: PlanLine) -> dict[str, Any]:
    """What a step would do, as programs read it."""
    changes = [{"field": change.field, "stands": change.stands, "asked": change.asked} for change in line.changes]
    return {
        "step": line.step.value,
        "action": line.action.value,
        "code": line.code,
        "note": line.note,
        "may_merge": line.may_merge,
        "changes": changes,
    }


def _plan_table(lines: list[PlanLine]) -> Table:
    table = Table(header_style="bold")
    for heading in ("step", "what would happen", "difference to what stands", "note"):
        table.add_column(heading, overflow="fold")
    for line in lines:
        differences = "\n".join(
            f"{change.field}: {change.stands} -> {change.asked}"
            if change.asked is not None
            else f"{change.field}: differs (personal data, not shown)"
            for change in line.changes
        )
        note = f"{line.code}: {line.note}" if line.code else line.note
        table.add_row(line.step.value, line.action.value, differences, note)
    return table
