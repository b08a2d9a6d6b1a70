"""`onboard doctor`: whether everything that is needed is there, and what to do where it is not."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Annotated, Final

from cyclopts import Parameter

from cli import doors, present
from onboarding.advice import advice
from onboarding.endings import EXIT_FAULT, EXIT_ONBOARDED
from onboarding.errors import CLINICAL_ONE, OPENSPECIMEN, AnswerError, BadInput, NotYet, OnboardingError
from onboarding.identifiers import normalise_id
from onboarding.ledger.ledger import Ledger, open_ledger
from onboarding.settings import SETTING_VARIABLES, Mode, Settings, load_settings, unknown_variables
from onboarding.vendors.clinical_one import ClinicalOneClient
from onboarding.vendors.gate import InMemoryGate, VendorGate
from onboarding.vendors.openspecimen import OpenSpecimenClient
from onboarding.vendors.transport import VendorHttp
from onboarding.vendors.wire import Deadline
from onboarding.workbench import LedgerGate, missing_connections

Flag = Annotated[bool, Parameter(negative="")]


class Finding(StrEnum):
    """What a check came to."""

    GOOD = "good"
    NOTE = "note"
    BAD = "BAD"


_STYLES: Final = {Finding.GOOD: "green", Finding.NOTE: "yellow", Finding.BAD: "bold red"}


@dataclass(frozen=True)
class Check:
    """One check: what was looked at, what it came to, and what to do."""

    name: str
    finding: Finding
    what: str


@dataclass(frozen=True)
class Samples:
    """Real ids that rights are tried on, by reading."""

    registration: int | None
    study: str | None
    mode: Mode
    kit: str | None


def doctor(
    *,
    registration: int | None = None,
    study: str | None = None,
    mode: Mode = "test",
    kit: str | None = None,
    try_login_again: Flag = False,
    json: Flag = False,
) -> int:
    """Check settings, key, ledger, both vendors' log-ins and rights, and the Prefect API. Nothing is changed on the other systems.

    Args:
        registration: number of an OpenSpecimen registration, to try the right to read it.
        study: id of a Clinical One study, to try the right to list its DND exceptions.
        mode: mode of that study; rights are held per mode.
        kit: inventory id of a device in that study, to try the dispensation check.
        try_login_again: forget that a log-in was refused, since the account was mended on the other side.
        json: print JSON lines.
    """
    try:
        study_id = None if study is None else normalise_id(study)
        kit_id = None if kit is None else normalise_id(kit)
    except ValueError as error:
        raise BadInput([f"--study and --kit {error}."]) from None
    samples = Samples(registration, study_id, mode, kit_id)
    checks = asyncio.run(_all_checks(samples, try_login_again=try_login_again))
    out = present.console()
    for check in checks:
        if json:
            present.print_json({"check": check.name, "finding": check.finding.value, "what": check.what})
        else:
            out.print(f"{check.finding.value:<5}", end="", style=_STYLES[check.finding])
            out.print(f"{check.name}: {check.what}", soft_wrap=True)
    return EXIT_FAULT if any(check.finding is Finding.BAD for check in checks) else EXIT_ONBOARDED


async def _all_checks(samples: Samples, *, try_login_again: bool) -> list[Check]:
    settings = load_settings()
    checks = [Check("settings", Finding.GOOD, f"modes {', '.join(settings.modes)}; {_times(settings)}")]
    checks += [
        Check(name, Finding.NOTE, f"is no setting, so nothing reads it{_closest(name)}") for name in unknown_variables()
    ]
    ledger, check = _ledger(settings)
    checks.append(check)
    api = doors.prefect_api()
    checks.append(_prefect_api(answers=api is not None))
    try:
        if ledger is not None and try_login_again:
            ledger.forget_login_refused(OPENSPECIMEN)
            ledger.forget_login_refused(CLINICAL_ONE)
        checks += await _vendors(settings, api, ledger, samples)
    finally:
        if ledger is not None:
            ledger.close()
    return checks


def _closest(name: str) -> str:
    closest = get_close_matches(name, SETTING_VARIABLES, n=1, cutoff=0.8)
    return f"; did you mean {closest[0]}?" if closest else "."


def _prefect_api(*, answers: bool) -> Check:
    name, address = "Prefect API", doors.asked_address()
    if address is None:
        what = "none answers; runs are not observed. Set PREFECT_API_URL to have them shown."
        return Check(name, Finding.NOTE, what)
    if not answers:
        what = f"none answers at {address}; runs are not observed. Start it, or correct or unset PREFECT_API_URL."
        return Check(name, Finding.NOTE, what)
    return Check(name, Finding.GOOD, address)


def _times(settings: Settings) -> str:
    return (
        f"a request may take {settings.request_timeout_seconds:g} s, an unknown outcome is settled after "
        f"{settings.quiet_seconds:g} s, a lease lasts {settings.lease_seconds:g} s"
    )


def _ledger(settings: Settings) -> tuple[Ledger | None, Check]:
    try:
        ledger = open_ledger(settings, create=False)
    except OnboardingError as error:
        missing = settings.ledger_url.startswith("sqlite") and "there is no ledger" in str(error)
        return None, Check("ledger", Finding.NOTE if missing else Finding.BAD, str(error))
    return ledger, Check("ledger", Finding.GOOD, f"{ledger.store.place}, key {ledger.key.key_id}, durable")


async def _vendors(settings: Settings, api: str | None, ledger: Ledger | None, samples: Samples) -> list[Check]:
    try:
        found = await doors.connections(settings, api)
    except BadInput as error:
        return [Check("connections", Finding.BAD, problem) for problem in error.problems]
    checks = [Check("connections", Finding.BAD, problem) for problem in missing_connections(found)]
    gate: VendorGate = InMemoryGate() if ledger is None else LedgerGate(ledger, _in_thread)
    async with VendorHttp(ca_file=settings.ca_file) as http:
        if found.openspecimen is not None:
            openspecimen = OpenSpecimenClient(found.openspecimen, http, gate)
            checks += await _openspecimen(openspecimen, settings, samples)
            await openspecimen.log_out(deadline=_deadline(settings))
            await openspecimen.aclose()
        if found.clinical_one is not None:
            clinical_one = ClinicalOneClient(found.clinical_one, http, gate)
            checks += await _clinical_one(clinical_one, settings, samples)
            await clinical_one.aclose()
    return checks


async def _openspecimen(client: OpenSpecimenClient, settings: Settings, samples: Samples) -> list[Check]:
    checks = [await _tried(f"{OPENSPECIMEN} log-in", client.log_in(deadline=_deadline(settings)))]
    if checks[0].finding is Finding.BAD:
        return checks
    name = f"{OPENSPECIMEN} right to read a registration"
    if samples.registration is None:
        return [*checks, Check(name, Finding.NOTE, "not tried; give --registration NUMBER to try it.")]
    read = client.read_registration(samples.registration, deadline=_deadline(settings))
    return [*checks, await _tried(name, read), _cannot_try(f"{OPENSPECIMEN} right to update")]


async def _clinical_one(client: ClinicalOneClient, settings: Settings, samples: Samples) -> list[Check]:
    checks = [await _tried(f"{CLINICAL_ONE} log-in", client.log_in(deadline=_deadline(settings)))]
    if checks[0].finding is Finding.BAD:
        return checks
    name = f"{CLINICAL_ONE} right to list DND exceptions"
    if samples.study is None:
        return [*checks, Check(name, Finding.NOTE, "not tried; give --study ID and --mode to try it.")]
    listing = client.list_exceptions(samples.study, samples.mode, deadline=_deadline(settings))
    checks.append(await _tried(f"{name} in mode {samples.mode}", listing))
    if samples.kit is not None:
        look = client.dispensation(samples.study, samples.mode, samples.kit, deadline=_deadline(settings))
        checks.append(await _tried(f"{CLINICAL_ONE} right to see a dispensation", look))
    return [*checks, _cannot_try(f"{CLINICAL_ONE} rights DeviceActionsPost and DispensationExceptionPost")]


def _cannot_try(name: str) -> Check:
    return Check(name, Finding.NOTE, "cannot be tried without writing; the first case will tell.")


async def _tried(name: str, call: Awaitable[object]) -> Check:
    try:
        await call
    except NotYet:
        return Check(name, Finding.GOOD, "granted")
    except AnswerError as error:
        status = f", HTTP {error.http_status}" if error.http_status else ""
        return Check(name, Finding.BAD, f"{error.code}{status}: {advice(error.code, error.system)}")
    return Check(name, Finding.GOOD, "granted")


def _deadline(settings: Settings) -> Deadline:
    return Deadline(settings.request_timeout_seconds)


async def _in_thread(work: Callable[..., object], *arguments: object) -> object:
    return await asyncio.to_thread(work, *arguments)
