"""The two doors: a configured Prefect API that answers runs the flow; else the same step code runs here, unobserved."""

import os
import ssl
import sys
import tomllib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console

from cli.who import actor
from onboarding.advice import advice
from onboarding.endings import Ending
from onboarding.errors import CaseContradicted, LeaseLost, OnboardingError
from onboarding.intake import IntakeRequest
from onboarding.ledger.leasing import Closed
from onboarding.ledger.opening import Opened
from onboarding.ledger.states import CaseStatus
from onboarding.ledger.views import CaseView, Held
from onboarding.request import OnboardingRequest
from onboarding.settings import Connections, Settings, load_connections
from onboarding.steps.case import work_case
from onboarding.steps.planning import PlanLine, plan
from onboarding.steps.report import StepReport
from onboarding.workbench import Workbench, open_workbench

NOT_OBSERVED: Final = "not observed: no Prefect API"
_API_ANSWERS_S: Final = 1.0


@dataclass(frozen=True)
class Worked:
    """How the work on a case ended, and the case as the ledger has it afterwards."""

    case: CaseView
    ending: Ending
    what: str | None = None


class FlowFailed(OnboardingError):
    """The flow could not be run, or did not end as flows end here; says what to do."""


Door = Callable[[Workbench, str, bool], Awaitable[Worked]]


def prefect_api() -> str | None:
    """The configured Prefect API, if it answers within a second. Prefect itself is not imported for that."""
    url = _configured_api()
    if not url or not url.startswith(("http://", "https://")):
        return None
    try:
        answer = httpx.get(f"{url.rstrip('/')}/health", timeout=_API_ANSWERS_S, trust_env=False, verify=_certificates())
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        ValueError,
        OSError,
    ):  # a host that is no name; certificates that are no file
        return None
    return url if answer.status_code == httpx.codes.OK else None


def not_observed() -> str:
    """Why a run is not seen on a page: no Prefect API is configured, or it does not answer."""
    address = asked_address()
    return NOT_OBSERVED if address is None else f"{NOT_OBSERVED} answers at {address}"


def asked_address() -> str | None:
    """Where a Prefect API is looked for, without a log-in; None if none is configured, or by what is no address."""
    try:
        url = httpx.URL(_configured_api() or "")
        known = url.scheme in ("http", "https") and url.host
    except (httpx.InvalidURL, ValueError):
        return None
    return str(url.copy_with(username=None, password=None, query=None, fragment=None)) if known else None


def _configured_api() -> str | None:
    return os.environ.get("PREFECT_API_URL") or _of_profile("PREFECT_API_URL")


def _certificates() -> ssl.SSLContext | bool:
    """Those of one's own authority, where Prefect is told of one; else the usual ones."""
    file = os.environ.get("PREFECT_API_SSL_CERT_FILE") or _of_profile("PREFECT_API_SSL_CERT_FILE")
    return ssl.create_default_context(cafile=file) if file else True


def _of_profile(setting: str) -> str | None:
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    try:
        profiles = tomllib.loads((home / "profiles.toml").read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
    active = os.environ.get("PREFECT_PROFILE") or profiles.get("active")
    named = profiles.get("profiles")
    chosen = named.get(active) if isinstance(named, dict) and isinstance(active, str) else None
    value = chosen.get(setting) if isinstance(chosen, dict) else None
    return value if isinstance(value, str) else None


async def connections(settings: Settings, api: str | None) -> Connections:
    """Both connections: from the environment, and where there is a Prefect API also from its blocks."""
    found = load_connections(settings)
    if api is None or (found.openspecimen is not None and found.clinical_one is not None):
        return found
    with prefect_said_plainly():
        from blocks import connections_for_flows

        return await connections_for_flows(settings)


def door_for(api: str | None) -> Door:
    """The flow where there is a Prefect API, else the steps themselves."""
    return _work_by_flow if api is not None else _work_here


async def open_and_work(bench: Workbench, request: IntakeRequest, door: Door) -> tuple[Opened, Worked]:
    """Find or make the request's case and work it. The same request never retries a refusal by itself."""
    opened = await bench.open_case(request)
    return opened, await door(bench, opened.case_id, False)


async def show_plan(settings: Settings, found: Connections, request: IntakeRequest) -> list[PlanLine]:
    """A dry run: reads only."""
    async with open_workbench(settings, found, actor=actor()) as bench:
        return await plan(request, bench.systems, bench.settings)


async def _work_here(bench: Workbench, case_id: str, retry: bool) -> Worked:
    try:
        async with bench.session(case_id, retry=retry) as session:
            if isinstance(session, Held | Closed):
                return await _not_worked(bench, case_id, session)
            report = await work_case(session, _tell_wait)
    except CaseContradicted as error:
        return Worked(await case_of(bench, case_id), Ending.NEEDS_ATTENTION, str(error))
    except LeaseLost as error:
        return Worked(await case_of(bench, case_id), Ending.LEASE_LOST, str(error))
    return Worked(await case_of(bench, case_id), report.ending)


def _tell_wait(report: StepReport) -> None:
    """Say on the error stream why nothing seems to happen."""
    what = f"{report.code}: {advice(report.code, report.system)}"
    print(
        f"onboard: {report.step}: {what} Looking again in {max(1, round(report.wait_s))} s.",
        file=sys.stderr,
        flush=True,
    )


async def observed_plan(request: OnboardingRequest) -> None:
    """Run a dry run as a flow, so that its plan is kept with a run. The request must hold no personal data."""
    with prefect_said_plainly():
        from flows.onboard_subject import onboard_subject

        await onboard_subject(request=request, dry_run=True, return_state=True)


async def _work_by_flow(bench: Workbench, case_id: str, retry: bool) -> Worked:
    with prefect_said_plainly():
        from flows.onboard_subject import onboard_subject

        state = await onboard_subject(case_id=case_id, retry_refused=retry, return_state=True)
    case = await case_of(bench, case_id)
    if state.name not in set(Ending):
        raise FlowFailed(f"case {case_id}: {state.message or 'the flow run failed; its log says why.'}")
    return Worked(case, Ending(state.name), state.message)


async def work_batch_by_flow(batch_id: str, concurrency: int, console: Console) -> tuple[Ending, str]:
    """Work a batch as a flow run; how it ended, and what its last state says. ``console``: for what Prefect logs of it."""
    with prefect_said_plainly():
        from cli.prefect_lines import prefect_lines_above
        from flows.onboard_batch import onboard_batch

        with prefect_lines_above(console):
            state = await onboard_batch(batch_id=batch_id, concurrency=concurrency, return_state=True)
    if state.name not in set(Ending):
        raise FlowFailed(f"batch {batch_id}: {state.message or 'the flow run failed; its log says why.'}")
    return Ending(state.name), state.message or ""


@contextmanager
def prefect_said_plainly() -> Iterator[None]:
    """What Prefect raises when its API is no Prefect API, breaks off or is of another version is said in one line."""
    try:
        yield
    except OnboardingError:
        raise
    except Exception as error:  # noqa: BLE001 - of many kinds, from Prefect and what it stands on
        raise FlowFailed(
            f"the Prefect API did not run the flow ({type(error).__name__}): check that PREFECT_API_URL is a Prefect "
            "server of version 3 and that it works, or unset it to work without one."
        ) from None


async def _not_worked(bench: Workbench, case_id: str, why: Held | Closed) -> Worked:
    case = await case_of(bench, case_id)
    if isinstance(why, Held):
        said = f"another run works on it; its lease ends in {why.left_s:.0f} s."
        return Worked(case, Ending.HELD_BY_ANOTHER_RUN, said)
    if why.status is CaseStatus.DONE:
        return Worked(case, Ending.ONBOARDED, "it was onboarded before; nothing was sent.")
    if why.status is CaseStatus.ATTENTION:
        return Worked(case, Ending.NEEDS_ATTENTION)
    return Worked(case, Ending.REQUEST_REFUSED, f"it is {why.status} and cannot be worked.")


async def case_of(bench: Workbench, case_id: str) -> CaseView:
    """The case as the ledger has it now."""
    case: CaseView | None = await bench.in_thread(bench.ledger.case, case_id)
    assert case is not None, "cases are never deleted"
    return case
