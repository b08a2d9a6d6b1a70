"""Personal data and credentials are nowhere outside the ledger's encrypted columns, whatever happens and at both doors."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from onboarding.keys import LedgerKey
from onboarding.ledger.ledger import open_ledger
from onboarding.settings import load_settings
from tests.support.batch_files import json_lines
from tests.support.installation import Installation, Ran, variables
from tests.support.prefect_server import PrefectServer
from tests.support.requests import LEFT_OUT, MARKER, STUDY_ID, example
from tests.support.search import files_below, forms_of, found_in, found_in_files
from vendor_sandbox import seed
from vendor_sandbox.uuids import code

PASSWORD, SECRET = "Pssw-91ce-password", "Scrt-40b7-secret"
BIRTH, BIRTH_AS_MS = "1961-07-03", "-268185600000"


def participant(number: int) -> dict[str, Any]:
    """A participant in whose every free field the marker is; unique by the number."""
    return {
        "id": 2 * number,
        "firstName": f"First {MARKER}",
        "middleName": f"Middle {MARKER}",
        "lastName": f"Last {MARKER}",
        "birthDate": BIRTH,
        "gender": "Female",
        "vitalStatus": "Alive",
        "races": ["White"],
        "uid": f"uid {MARKER} {number}",
        "empi": f"empi {MARKER} {number}",
        "pmis": [{"mrn": f"mrn {MARKER} {number}", "siteName": "Site A"}],
        "emailAddress": f"{MARKER}.{number}@example.org",
        "phoneNumber": f"+49 {MARKER}",
        "extensionDetail": {"attrsMap": {"hobby": f"Chess {MARKER}"}},
    }


def personal(number: int, **changes: Any) -> dict[str, Any]:
    """A request for the sandbox's n-th subject, full of personal data."""
    ours = {
        "registration__id": number,
        "registration__participant": participant(number),
        "registration__op_comments": f"Because of {MARKER}",
        "registration__ppid": f"ASCI{700 + number}",
        "registration__external_subject_id": f"EXT_{number}",
        "subject__subject_id": seed.subject_id(number),
        "device__inventory_id": seed.inventory_id(number),
    }
    return example(**{**ours, **changes})


@dataclass
class Watched:
    """An installation all of whose output is kept."""

    installation: Installation
    observed: dict[str, str | None] = field(default_factory=dict)
    printed: list[tuple[tuple[str, ...], Ran]] = field(default_factory=list)

    def run(self, *words: str) -> Ran:
        """Run a command through the door that is tested."""
        flows = bool(self.observed) and words[0] in ("subject", "batch", "resume", "doctor")
        run = self.installation.run_afresh if flows else self.installation.run
        ran = run(*words, variables=self.observed)
        self.printed.append((words, ran))
        return ran

    def onboard(self, number: int, *words: str, **changes: Any) -> Ran:
        """Onboard the n-th subject."""
        path = self.installation.folder.parent / f"{self.installation.folder.name}-request-{number}.json"
        file = self.installation.request(personal(number, **changes))
        Path(file).rename(path)  # requests are the one place where personal data may be in the clear
        return self.run("subject", str(path), *words)


@pytest.fixture
def watched(installation: Installation) -> Watched:
    """An installation whose credentials at the vendors can be recognised."""
    world = seed.default()
    world["openspecimen"]["users"][0]["password"] = PASSWORD
    world["clinical_one"]["clients"][0]["secret"] = SECRET
    installation.control.seed(world)
    temporary = installation.folder / "tmp"
    temporary.mkdir()
    installation.environment |= variables(openspecimen_password=PASSWORD, clinical_one_client_secret=SECRET)
    installation.environment |= {"TMPDIR": str(temporary), "HOME": str(installation.folder / "home")}
    return Watched(installation)


def go_through_everything(watched: Watched) -> None:
    """Success, refusals in words that repeat personal data, doubt, an unknown outcome, unreadable answers, bad input."""
    here = watched.installation
    assert watched.onboard(1, "--dry-run").status == 0
    assert watched.onboard(1).status == 0

    echo = f"E-mail {MARKER}@example.org and MRN {MARKER} belong to {MARKER} already, born {BIRTH}"
    here.fault("openspecimen", "refuse", call="update_registration", code="PARTICIPANT_DUP_MRN", phrase=echo, nth=1)
    assert watched.onboard(2, device__vendor_code="V-1", device__subject_number=LEFT_OUT).status == 4
    here.control.remove_faults()
    here.fault("clinical_one", "refuse", call="list_exceptions", phrase=echo, nth=1)
    assert watched.onboard(6).status == 4
    here.control.remove_faults()

    here.fault("openspecimen", "cut", call="update_registration", when="after", nth=1)
    here.fault("openspecimen", "refuse", call="read_registration", nth=2, times=9, code="CPR_M_NOT_FOUND", phrase=echo)
    assert watched.onboard(7, device=LEFT_OUT).status == 4
    here.control.remove_faults()
    for number, fault in enumerate(("truncate", "empty"), 8):
        here.fault("openspecimen", fault, call="update_registration", when="after", nth=1)
        watched.onboard(number, registration__activity_status="Active")
        here.control.remove_faults()
    here.fault("openspecimen", "wrong_body", call="read_registration", nth=1)
    watched.onboard(3, device__vendor_code=[MARKER])
    watched.onboard(4, registration__participant={"id": 8, "birthDate": f"{MARKER}"})
    here.control.remove_faults()
    work_a_batch(watched)
    look_at_everything(watched)


def work_a_batch(watched: Watched) -> None:
    """A file of many subjects with a bad row: planned, refused, and worked without that row. Its results are searched too."""
    here = watched.installation
    source = here.folder.parent / f"{here.folder.name}-batch.jsonl"  # like a request, a place for personal data
    bad = personal(9, registration__participant={**participant(9), "birthDate": MARKER})
    source.write_text(json_lines([personal(1), personal(5), bad]), "utf-8")
    for words in (("--dry-run",), ("--dry-run", "--json"), (), ("--json",), ("--skip-bad",), ("--skip-bad", "--json")):
        ran = watched.run("batch", str(source), *words)
        assert ran.status in (2, 3, 4)
    for made in ("results", "plan"):
        source.with_name(f"{source.stem}.{made}.csv").rename(here.folder / f"batch.{made}.csv")
    assert MARKER in source.with_name(f"{source.stem}.errors.jsonl").read_text("utf-8"), "rows to mend are as they were"
    watched.run("status", "--batch", ran.json_lines[-1]["batch"])


def look_at_everything(watched: Watched) -> None:
    """Every command that prints what the ledger knows."""
    watched.run("status")
    for case in watched.run("status", "--json").json_lines:
        watched.run("show", case["case"])
        watched.run("show", case["case"], "--json")
    cases = [case["case"] for case in watched.run("status", "--json").json_lines]
    watched.run("resume", *cases[:3])
    watched.run("resume", *cases[3:], "--json")
    watched.run("doctor", "--registration", "1", "--study", STUDY_ID, "--kit", seed.inventory_id(1))


def secrets_of(watched: Watched) -> list[str]:
    """Everything that must be found nowhere: personal data, credentials, device codes, the ledger's key."""
    here = watched.installation
    registered = here.control.effects(effect="device_registered")
    assert registered, "a device was registered, so there are codes to look for"
    devices = [
        code(kind, entry["key"]["inventory_id"], issue, length=length)
        for entry in registered
        for kind, length in (("access", 6), ("otp", 8))
        for issue in range(4)
    ]
    key = here.ledger_file.with_name("ledger.db.key")
    keys = [key.read_text().strip()] if key.exists() else [here.environment["ONBOARDING_LEDGER_KEY"]]
    return [MARKER, BIRTH, BIRTH_AS_MS, PASSWORD, SECRET, *devices, *keys]


def assert_it_was_all_there(watched: Watched) -> None:
    """The search would have something to find: the vendor got the personal data, and the ledger keeps it, encrypted."""
    here = watched.installation
    assert MARKER in str(here.control.state()["openspecimen"]["participants"]["2"])
    texts = []
    ledger = open_ledger(load_settings(here.environment), create=False)
    try:
        for case in ledger.cases():
            assert MARKER in str(ledger.request(case.id).vendor_json())
            texts.append(str(ledger.vendor_texts(case.id)))
    finally:
        ledger.close()
    assert any(MARKER in text for text in texts), "words of the vendor that repeat personal data are kept"


def assert_nothing_shows(watched: Watched, *places: Path) -> None:
    texts = secrets_of(watched)
    for words, ran in watched.printed:
        assert found_in((ran.out + ran.err).encode(), texts) == [], words
        assert "Traceback" not in ran.err, words
    here = watched.installation
    key = here.ledger_file.with_name("ledger.db.key")
    files = [path for path in files_below(here.folder, *places) if path != key]
    assert found_in_files(files, texts) == {}


def test_the_search_finds_what_is_planted_in_any_form(tmp_path: Path) -> None:
    for name, form in forms_of(MARKER).items():
        (tmp_path / "file").write_bytes(b"\x00\x01" + form + b"\x02")
        assert found_in_files(files_below(tmp_path), [MARKER]), name
    assert found_in_files(files_below(tmp_path), ["something else"]) == {}


def test_nothing_shows_when_the_steps_run_directly(watched: Watched) -> None:
    go_through_everything(watched)
    assert_it_was_all_there(watched)
    assert_nothing_shows(watched)


@pytest.mark.prefect
def test_nothing_shows_when_a_prefect_server_observes(watched: Watched, observing_server: PrefectServer) -> None:
    client_home = watched.installation.folder / "prefect-client"
    watched.observed = {
        "PREFECT_API_URL": observing_server.api_url,
        "PREFECT_HOME": str(client_home),
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "onboarding,aiohttp,httpx,sqlalchemy,asyncio",
    }
    go_through_everything(watched)
    assert_it_was_all_there(watched)
    assert any("Finished in state Onboarded" in ran.err for _, ran in watched.printed), "the flow ran"
    assert_nothing_shows(watched, observing_server.home)
    assert found_in("".join(observing_server.server.log).encode(), secrets_of(watched)) == []


@pytest.mark.postgres
def test_nothing_shows_in_a_dump_of_postgresql(watched: Watched, postgres_url: str) -> None:
    watched.installation.environment |= variables(ledger_url=postgres_url, ledger_key=LedgerKey.new_text())
    password = make_url(postgres_url).password
    assert password is not None
    assert watched.run("migrate").status == 0
    go_through_everything(watched)
    assert_it_was_all_there(watched)
    assert_nothing_shows(watched)
    texts = secrets_of(watched)
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        assert len(tables) >= 6
        for (table,) in tables:
            with connection.cursor() as cursor, cursor.copy(f"COPY {table} TO STDOUT") as copied:
                assert found_in(b"".join(bytes(part) for part in copied), texts) == [], table
    assert found_in("".join(ran.out + ran.err for _, ran in watched.printed).encode(), [password]) == []
