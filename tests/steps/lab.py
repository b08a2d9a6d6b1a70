"""A laboratory for the steps: the real core, a ledger of its own, and the real sandbox, over sockets on loopback."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from onboarding.clocks import utc_now
from onboarding.endings import Ending
from onboarding.intake import parse_request
from onboarding.keys import key_file
from onboarding.ledger.leasing import Closed
from onboarding.ledger.ledger import open_ledger
from onboarding.ledger.states import CaseStatus, StepName
from onboarding.ledger.views import CaseView, EventView, Held, StepView
from onboarding.settings import load_connections, load_settings
from onboarding.steps.attempt import attempt_step
from onboarding.steps.case import CaseReport, conclude, work_case
from onboarding.steps.report import StepReport
from onboarding.steps.session import CaseSession
from onboarding.workbench import Workbench, open_workbench
from tests.support.requests import LEFT_OUT, example
from vendor_sandbox import RunningSandbox, SandboxControl, Switches, running_sandbox, seed

SYSTEM_OF: Final[Mapping[str, str]] = {
    "login": "openspecimen",
    "read_registration": "openspecimen",
    "update_registration": "openspecimen",
    "token": "token",
    "dispensation": "clinical_one",
    "dispensation_history": "clinical_one",
    "register_device": "clinical_one",
    "access_code": "clinical_one",
    "list_exceptions": "clinical_one",
    "create_exception": "clinical_one",
}
STUDY, MODE = seed.STUDY_ID, "test"
ROUNDS = 6


def cloud_to_cloud(**changes: Any) -> dict[str, Any]:
    """The example for subject 2, who holds a cloud-to-cloud device."""
    ours = {
        "registration__id": 2,
        "registration__participant": {"id": 4},
        "registration__ppid": "ASCI222",
        "registration__external_subject_id": "TEST_002",
        "subject__subject_id": seed.subject_id(2),
        "device__inventory_id": seed.inventory_id(2),
        "device__vendor_code": "VENDOR-1",
        "device__subject_number": LEFT_OUT,
    }
    return example(**{**ours, **changes})


def only(*sections: str, **changes: Any) -> dict[str, Any]:
    """The example with no sections but these."""
    content = example(**changes)
    return {name: content[name] for name in ("subject", *sections)}


class Lab:
    """One installation and the world around it. Build it with ``laboratory``."""

    def __init__(self, sandbox: RunningSandbox, folder: Path, settings: Mapping[str, Any]) -> None:
        self.sandbox = sandbox
        self.control: SandboxControl = sandbox.control
        self.environment = {**_environment(sandbox.addresses, folder), **_variables(settings)}
        self.effect_log = folder / "effects.jsonl"
        self.bench: Workbench

    @asynccontextmanager
    async def another_bench(self, actor: str = "another", **settings: Any) -> AsyncIterator[Workbench]:
        """One more runner on the same ledger, with other settings if given."""
        environment = {**self.environment, **_variables(settings)}
        found = load_settings(environment)
        async with open_workbench(found, load_connections(found, environment), actor=actor) as bench:
            yield bench

    def fault(self, call: str, kind: str, **rule: Any) -> int:
        """Add a fault to a named call; returns the rule's id."""
        return self.control.add_fault(SYSTEM_OF[call], kind, call=call, **rule)

    async def open(self, request: Mapping[str, Any]) -> str:
        """The id of the request's case."""
        return (await self.bench.open_case(parse_request(request))).case_id

    async def work(self, case_id: str, *, retry: bool = False, bench: Workbench | None = None) -> CaseReport:
        """Work a case as the command line does, short waits included."""
        async with leased(bench or self.bench, case_id, retry=retry) as session:
            return await work_case(session)

    async def attempt(self, case_id: str, *, retry: bool = False, bench: Workbench | None = None) -> CaseReport:
        """Work a case up to the first step that does not go on, once, and park it."""
        async with leased(bench or self.bench, case_id, retry=retry) as session:
            return await attempt_once(session)

    async def onboard(self, request: Mapping[str, Any]) -> tuple[str, CaseReport]:
        """Open and work a case."""
        case_id = await self.open(request)
        return case_id, await self.work(case_id)

    async def work_to_the_end(self, case_id: str) -> CaseView:
        """Work a case until nothing can be done without a person's decision; refused steps are tried again once."""
        for _ in range(ROUNDS):
            case = self.case(case_id)
            if case.status is CaseStatus.DONE:
                break
            await due(case)
            async with self.bench.session(case_id, retry=case.status is CaseStatus.ATTENTION) as session:
                if isinstance(session, Closed):
                    break
                assert isinstance(session, CaseSession), session
                await work_case(session)
        return self.case(case_id)

    def case(self, case_id: str) -> CaseView:
        """The case as it stands in the ledger."""
        case = self.bench.ledger.case(case_id)
        assert case is not None
        return case

    def step(self, case_id: str, step: StepName) -> StepView:
        """A step as it stands in the ledger."""
        return self.case(case_id).steps[step]

    def trail(self, case_id: str, kind: str | None = None) -> list[EventView]:
        """The case's trail, or the entries of one kind."""
        return [event for event in self.bench.ledger.events(case_id) if kind in (None, event.kind)]

    def effects(self) -> Counter[str]:
        """How often each kind of effect happened."""
        return Counter(entry["effect"] for entry in self.control.effects())

    def changes(self) -> Counter[str]:
        """As ``effects``, without updates that changed nothing."""
        return Counter(entry["effect"] for entry in self.control.effects() if entry["changed"])

    def calls(self, call: str | None = None) -> list[dict[str, Any]]:
        """The requests that arrived, or those of one call."""
        return self.control.requests(call=call)


@asynccontextmanager
async def laboratory(
    folder: Path, *, world: dict[str, Any] | None = None, switches: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Lab]:
    """A sandbox and a workbench in one; settings by their names, as in ``Settings``."""
    chosen = replace(Switches(), **(switches or {}))
    async with running_sandbox(folder / "effects.jsonl", world, switches=chosen) as sandbox:
        lab = Lab(sandbox, folder, settings)
        async with lab.another_bench("tester") as bench:
            lab.bench = bench
            yield lab


@asynccontextmanager
async def leased(bench: Workbench, case_id: str, *, retry: bool = False) -> AsyncIterator[CaseSession]:
    """A session on a case that must be free to be worked."""
    async with bench.session(case_id, retry=retry) as session:
        assert not isinstance(session, Held | Closed), session
        yield session


async def attempt_once(session: CaseSession) -> CaseReport:
    """Every step once, without waiting, up to the first that does not go on."""
    done: list[StepReport] = []
    for step in StepName:
        done.append(await attempt_step(session, step))
        if not done[-1].goes_on:
            return await conclude(session, done)
    await session.finish()
    return CaseReport(session.case_id, Ending.ONBOARDED, steps=tuple(done))


def place(folder: Path, name: str) -> Path:
    """A folder of its own for one of several laboratories."""
    made = folder / name
    made.mkdir()
    return made


async def due(case: CaseView) -> None:
    """Wait until a case is due, if that is soon; a longer wait is none of a test's business."""
    left_s = (case.due_at - utc_now()).total_seconds() if case.due_at is not None else 0.0
    if 0 < left_s < 8:
        await asyncio.sleep(left_s)


def _variables(settings: Mapping[str, Any]) -> dict[str, str]:
    return {f"ONBOARDING_{name.upper()}": str(value) for name, value in settings.items()}


def _environment(addresses: Mapping[str, str], folder: Path) -> dict[str, str]:
    settings = {
        "ledger_url": f"sqlite:///{folder / 'ledger.db'}",
        "settings_file": _empty_file(folder / "settings.toml"),
        "ledger_key": _new_ledger(folder / "ledger.db"),
        "openspecimen_url": addresses["openspecimen_url"],
        "openspecimen_username": seed.USERNAME,
        "openspecimen_password": seed.PASSWORD,
        "clinical_one_url": addresses["clinical_one_url"],
        "clinical_one_token_url": addresses["token_url"],
        "clinical_one_client_id": seed.CLIENT_ID,
        "clinical_one_client_secret": seed.CLIENT_SECRET,
        "clinical_one_scope": seed.SCOPE,
        "loopback_only": "true",
        "request_timeout_seconds": 1.5,
        "settle_seconds": 0.2,
        "lease_seconds": 20,
    }
    return _variables(settings)


@cache
def _made_ledger() -> tuple[bytes, str]:
    """An empty ledger and its key; making one takes longer than most tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        open_ledger(load_settings({"ONBOARDING_LEDGER_URL": f"sqlite:///{path}"})).close()
        return path.read_bytes(), key_file(path).read_text("ascii").strip()


def _new_ledger(path: Path) -> str:
    content, key = _made_ledger()
    path.write_bytes(content)
    return key


def _empty_file(path: Path) -> Path:
    path.touch()
    return path
