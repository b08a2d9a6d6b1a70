"""`onboard trigger`: start a deployment through the Prefect API, and follow its run to the end."""

import math
import sys
import time
from typing import Annotated, Any, Final

from cyclopts import Parameter

from cli import present
from cli.prefect_api import PrefectApi, configured_api
from cli.running import stop_once
from cli.subject import FileArgument, read_file
from cli.triggering import Run, Started, Wanted, follow, start
from onboarding.endings import ENDINGS, EXIT_ATTENTION, EXIT_FAULT, EXIT_ONBOARDED, EXIT_WAITING
from onboarding.errors import BadInput
from onboarding.fields import compact_json
from onboarding.intake import IntakeRequest, parse_request
from onboarding.request import canonical_json

ONE_SUBJECT: Final = "onboard-subject/onboard-subject"
MANY_SUBJECTS: Final = "onboard-batch/onboard-batch"
_LONGEST_KEY: Final = 200
Flag = Annotated[bool, Parameter(negative="")]


def trigger(
    file: FileArgument | None = None,
    /,
    *,
    case: str | None = None,
    batch: str | None = None,
    inbox_file: str | None = None,
    dry_run: Flag = False,
    retry_refused: Flag = False,
    wait: Flag = False,
    timeout: float | None = None,
    idempotency_key: str | None = None,
    patience: float = 120,
    json: Flag = False,
) -> int:
    """Start a run through the Prefect API: of a request, a case, a batch, or a file in the inbox. It needs no ledger.

    The same again finds the run that is under way; once that has ended, it starts another one. Whether anything is sent to the
    vendors is for the ledger to say, where the run works: what is done is never done twice.

    Args:
        file: the request, or - for standard input.
        case: go on with this case instead.
        batch: go on with this batch instead.
        inbox_file: take this file of the inbox instead; its name, which must name no person.
        dry_run: read only; the plan is on the run's page.
        retry_refused: with --case, try refused steps again.
        wait: stay until the run has ended; the exit status says how.
        timeout: with --wait, seconds to wait at most.
        idempotency_key: a key of your own: it stands for one run for ever, and must name no person.
        patience: seconds to try again while the API is busy or does not answer.
        json: print one JSON line.
    """
    _refuse_bad_numbers(timeout, patience, wait=wait)
    _refuse_bad_key(idempotency_key)
    wanted = read_wanted(file, case, batch, inbox_file, dry_run=dry_run, retry_refused=retry_refused)
    stop_once()
    with configured_api(patience) as api:
        return carry_out(api, wanted, key=idempotency_key, wait=wait, timeout=timeout, json=json)


def carry_out(
    api: PrefectApi, wanted: Wanted, *, key: str | None, wait: bool, timeout: float | None = None, json: bool = False
) -> int:
    """Start what is wanted, tell what became of it, and give the exit status."""
    started = _started(api, wanted, key)
    if not json:
        _say_started(api, started)
    run = _followed(api, started.run, timeout) if wait else started.run
    if json:
        present.print_json(_as_json(api, started, run))
    elif run.over or wait:
        _say_ended(run)
    return run.exit_status if run.over or wait else EXIT_ONBOARDED


def read_wanted(
    file: str | None,
    case: str | None = None,
    batch: str | None = None,
    inbox_file: str | None = None,
    *,
    dry_run: bool = False,
    retry_refused: bool = False,
) -> Wanted:
    """What is to be started. Raises ``BadInput``."""
    if sum(one is not None for one in (file, case, batch, inbox_file)) != 1:
        raise BadInput(["give one of FILE (- for standard input), --case, --batch and --inbox-file."])
    if retry_refused and case is None:
        raise BadInput(["--retry-refused: goes with --case."])
    flags = {"dry_run": True} if dry_run else {}
    if file is not None:
        request = _without_personal_data(parse_request(read_file(file)))
        parameters = {"request": request.model_dump(mode="json"), **flags}
        return Wanted(ONE_SUBJECT, parameters, compact_json([flags, canonical_json(request).decode()]))
    # What is no id is not sent: Prefect would keep it, whatever it is.
    if case is not None:
        from flows.asked import read_case_id

        parameters = {"case_id": read_case_id(case), **flags, **({"retry_refused": True} if retry_refused else {})}
        return Wanted(ONE_SUBJECT, parameters, compact_json(parameters))
    from flows.batch_asked import read_batch_asked

    asked = read_batch_asked({"batch_id": batch, "file": inbox_file})
    named = {"file": asked.file} if asked.batch_id is None else {"batch_id": asked.batch_id}
    return Wanted(MANY_SUBJECTS, {**named, **flags}, compact_json({**named, **flags}))


def _without_personal_data(request: IntakeRequest) -> IntakeRequest:
    """The request itself, if it may enter Prefect."""
    registration = request.registration
    if registration is not None:
        person = registration.participant
        fields = [f"participant.{name}" for name in (person.given() if person else []) if name != "id"]
        fields += ["op_comments"] if "op_comments" in registration.given() else []
        if fields:
            what = "a person's details never enter Prefect; onboard this file with 'onboard subject', or leave it out."
            raise BadInput([f"registration.{name}: {what}" for name in fields])
    for warning in request.warnings():
        print(f"onboard: note: {warning}", file=sys.stderr)
    return request


def _refuse_bad_numbers(timeout: float | None, patience: float, *, wait: bool) -> None:
    problems = [
        f"{name}: must be a number of seconds, 0 or more."
        for name, number in (("--timeout", timeout), ("--patience", patience))
        if number is not None and not (number >= 0 and math.isfinite(number))
    ]
    if timeout is not None and not wait:
        problems.append("--timeout: goes with --wait.")
    if problems:
        raise BadInput(problems)


def _refuse_bad_key(key: str | None) -> None:
    if key is not None and not (0 < len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
        raise BadInput([f"--idempotency-key: must be 1 to {_LONGEST_KEY} printable ASCII characters."])


def _started(api: PrefectApi, wanted: Wanted, key: str | None) -> Started:
    try:
        return start(api, wanted, key)
    except KeyboardInterrupt:
        print("onboard: stopped; the same command finds the run if one was started and is under way.", file=sys.stderr)
        raise SystemExit(EXIT_FAULT) from None


def _followed(api: PrefectApi, run: Run, timeout: float | None) -> Run:
    try:
        return follow(api, run, None if timeout is None else time.monotonic() + timeout, _tell)
    except KeyboardInterrupt:
        print(f"onboard: no longer followed; the run goes on: {_page(api, run)}", file=sys.stderr)
        raise SystemExit(EXIT_FAULT) from None


def _tell(run: Run) -> None:
    if run.name == "Late":
        what = "nobody has taken the run up yet; it needs 'onboard up', or a worker that is free."
        print(f"onboard: {what}", file=sys.stderr, flush=True)


def _page(api: PrefectApi, run: Run) -> str:
    return f"{api.page}/runs/flow-run/{run.id}"


def _as_json(api: PrefectApi, started: Started, run: Run) -> dict[str, Any]:
    return {
        "flow_run": run.id,
        "created": started.created,
        "idempotency_key": started.key,
        "state_type": run.type,
        "state": run.name,
        "ending": run.ending.value if run.ending else None,
        "what": run.message or None,
        "case": run.case_id,
        "page": _page(api, run),
    }


def _say_started(api: PrefectApi, started: Started) -> None:
    stood = "This key stands for run" if started.run.over else "Under way already: run"
    what = "Started run" if started.created else stood
    present.console().print(f"{what} {started.run.id}: {_page(api, started.run)}", soft_wrap=True)


def _say_ended(run: Run) -> None:
    out = present.console()
    whose = f"Case {run.case_id}" if run.case_id else f"Run {run.id}"
    if not run.over:
        out.print(f"{whose}: {run.name} still; the run goes on.", soft_wrap=True)
        return
    meaning = ENDINGS[run.ending].meaning if run.ending else "it did not end as runs end here"
    out.print(f"{whose}: {run.name} - {meaning}", soft_wrap=True)
    message = run.message.removeprefix(f"case {run.case_id}: ")
    if message and message != f"{meaning}.":
        out.print(f"  {message}", soft_wrap=True)
    if hint := _how_to_go_on(run):
        out.print(f"  {hint}", soft_wrap=True)


def _how_to_go_on(run: Run) -> str:
    again = f"onboard trigger --case {run.case_id}" if run.case_id else "the same command again"
    if run.ending is None:
        return f"what it had begun goes on when it is due, by the schedule of resume-cases; sooner with: {again}"
    if run.exit_status == EXIT_WAITING:
        return f"it goes on when it is due, by the schedule of resume-cases; sooner with: {again}"
    if run.exit_status == EXIT_ATTENTION and run.case_id:
        return (
            f"when that is mended: {again} --retry-refused; else a run of decide-case, or: onboard show {run.case_id}"
        )
    return ""
