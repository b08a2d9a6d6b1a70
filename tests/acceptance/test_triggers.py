"""A hundred starts by the API from ten clients at once, with repeated keys, on PostgreSQL: one case and each effect once.

Prefect needs PostgreSQL's pg_trgm, which only an installed PostgreSQL has. On SQLite its server takes longer than a minute to
answer ten callers at once, which is no fault of theirs.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from benchmarks.servers import installed_postgres
from benchmarks.subjects import request_json, request_of
from cli.prefect_api import PrefectApi
from cli.trigger import ONE_SUBJECT
from cli.triggering import Wanted, start
from onboarding.ledger.states import CaseStatus
from tests.acceptance.scaled_out import ENDS_S, Site, running_site, within
from tests.acceptance.test_batch import changes, each_effect_once, ledger_of, violations
from tests.support.installation import Installation, WarmCommands, variables
from vendor_sandbox import seed

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.postgres,
    pytest.mark.skipif(installed_postgres() is None, reason="Prefect needs an installed PostgreSQL, with pg_trgm"),
]

SUBJECTS: Final = 8
KEYS: Final = 10
"""The last two keys ask once more for what the first two do, as callers do who do not know of each other."""
TIMES: Final = 10
CLIENTS: Final = 10
PATIENT_S: Final = 60.0
_GOES_ON_BY_ITSELF: Final = ("Onboarded", "RetryScheduled", "HeldByAnotherRun")


@pytest.fixture
def site(tmp_path: Path, commands: WarmCommands) -> Iterator[Site]:
    with running_site(tmp_path, commands) as running:
        yield running


@pytest.fixture
def installation(site: Site, commands: WarmCommands) -> Iterator[Installation]:
    """The site with an empty ledger on PostgreSQL and three workers; as patient as an installation is by default."""
    patient = variables(request_timeout_seconds=30, settle_seconds=1, lease_seconds=90)
    site.environment |= patient
    made = site.installation(commands)
    made.environment |= patient
    made.folder = site.folder / "installation"
    made.folder.mkdir()
    with site.postgres.server.fresh_database() as url:
        (site.folder / "settings.toml").write_text(f'ledger_url = "{url}"\n')
        assert made.run("migrate").status == 0
        site.set_workers_up(3)
        yield made


@dataclass
class Client:
    """One caller: what it was given for each key, and every status that it saw."""

    base_url: str
    got: list[tuple[int, str, bool]] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def note(self, response: httpx.Response) -> None:
        self.statuses[response.status_code] += 1

    def trigger_all(self, mine: list[int], together: threading.Barrier, *, by_our_command: bool) -> None:
        """Start each of these keys, once every client is ready to."""
        hooks: dict[str, list[Callable[..., Any]]] = {"response": [self.note]}
        with httpx.Client(base_url=self.base_url, trust_env=False, timeout=PATIENT_S, event_hooks=hooks) as http:
            deployment = http.get(f"deployments/name/{ONE_SUBJECT}").json()["id"]
            together.wait(PATIENT_S)
            for number in mine:
                parameters = {"request": request_json((number - 1) % SUBJECTS + 1)}
                if by_our_command:
                    api = PrefectApi(self.base_url, "", None, PATIENT_S, http)
                    started = start(api, Wanted(ONE_SUBJECT, parameters, ""), f"wish-{number}")
                    self.got.append((number, started.run.id, started.created))
                else:
                    self.got.append((number, *self._plainly(http, deployment, number, parameters)))

    def _plainly(
        self, http: httpx.Client, deployment: str, number: int, parameters: dict[str, Any]
    ) -> tuple[str, bool]:
        body = {"parameters": parameters, "idempotency_key": f"wish-{number}"}
        pause, wait_s, ends = threading.Event(), 0.2, time.monotonic() + PATIENT_S
        while True:  # as docs/trigger.md tells callers
            answer = http.post(f"deployments/{deployment}/create_flow_run", json=body)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > ends:
                break
            pause.wait(wait_s)
            wait_s *= 1.5
        assert answer.status_code in (200, 201), answer.text
        return str(answer.json()["id"]), answer.status_code == httpx.codes.CREATED


def triggered(base_url: str) -> list[Client]:
    """A hundred starts in an order that is the same each time, dealt to ten clients, who begin together."""
    wishes = [number for number in range(1, KEYS + 1) for _ in range(TIMES)]
    random.Random(5).shuffle(wishes)  # noqa: S311 - the same each time
    clients = [Client(base_url) for _ in range(CLIENTS)]
    together = threading.Barrier(CLIENTS)
    with ThreadPoolExecutor(CLIENTS) as pool:
        work = [
            pool.submit(client.trigger_all, wishes[at::CLIENTS], together, by_our_command=at % 2 == 0)
            for at, client in enumerate(clients)
        ]
        for one in work:
            one.result(ENDS_S)
    return clients


def runs_made(site: Site) -> list[str]:
    """The ids of all runs of the deployment; it has no schedule, and no other deployment's run counts."""
    deployment = site.api.get(f"deployments/name/{ONE_SUBJECT}").json()["id"]
    answer = site.api.post("flow_runs/filter", json={"deployments": {"id": {"any_": [deployment]}}, "limit": 200})
    answer.raise_for_status()
    return sorted(str(run["id"]) for run in answer.json())


def done(installation: Installation) -> bool:
    """Whether every case is done; what waits for the exception that all share is taken up as the schedule does it."""
    with ledger_of(installation) as ledger:
        if all(case.status is CaseStatus.DONE for case in ledger.cases()):
            return True
    installation.run("resume", "--all", variables={"PREFECT_API_URL": None})
    return False


def test_a_hundred_triggers_from_ten_clients_give_each_subject_one_case_and_each_effect_once(
    site: Site, installation: Installation, record_property: Callable[[str, object], None]
) -> None:
    installation.control.seed(seed.many(SUBJECTS))
    clients = triggered(str(site.api.base_url))

    got = [entry for client in clients for entry in client.got]
    assert len(got) == KEYS * TIMES == 100
    statuses = sum((client.statuses for client in clients), Counter[int]())
    record_property("statuses", dict(statuses))
    print(f"statuses that the clients saw: {dict(statuses)}")  # noqa: T201 - asked for
    assert set(statuses) <= {200, 201, 503}, "503 is handled by every client, nothing else had to be"
    runs = {number: run_id for number, run_id, _ in got}
    assert len(set(runs.values())) == KEYS
    assert {(number, run_id) for number, run_id, _ in got} == set(runs.items()), "one run for each key, for everybody"
    # Callers who ask with one key at the very same moment may each be told 201, so what was made is asked of the server.
    assert {number for number, _, created in got if created} == set(runs), "for each key somebody was told 201"
    assert runs_made(site) == sorted(runs.values()), "no run but these was made"

    endings = Counter(site.ended(run_id) for run_id in runs.values())
    record_property("endings", dict(endings))
    print(f"how the runs ended: {dict(endings)}")  # noqa: T201 - asked for
    assert set(endings) <= set(_GOES_ON_BY_ITSELF)
    within(ENDS_S, lambda: done(installation), "every case is done")
    with ledger_of(installation) as ledger:
        cases = ledger.cases()
    wanted = {request_of(number).subject.subject_id for number in range(1, SUBJECTS + 1)}
    assert sorted(case.subject_id for case in cases) == sorted(wanted)
    assert changes(installation) == each_effect_once(SUBJECTS)
    assert violations(installation) == []
