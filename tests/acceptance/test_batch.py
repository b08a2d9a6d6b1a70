"""Whole batches: killed and started again, poisoned and hit by faults, worked by several at once, and a vendor that dies."""

import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from onboarding.keys import LedgerKey
from onboarding.ledger.ledger import Ledger, open_ledger
from onboarding.settings import load_settings
from tests.cli.batch_lab import effects, errors, many, outcomes, results, written
from tests.crash.auditor import audit, gather
from tests.support.batch_files import csv_text, subject_row
from tests.support.installation import Installation, WarmCommands, sandbox_process, variables
from tests.support.prefect_server import PrefectServer
from tests.support.terminal import on_terminal
from vendor_sandbox import SandboxControl, seed

LEASE_S: Final = 6.0
QUIET_S: Final = 2.5
_ENDS_S: Final = 300
_POLL_S: Final = 0.05


@pytest.fixture
def audited(tmp_path: Path, commands: WarmCommands) -> Iterator[Installation]:
    """An installation with a sandbox of its own, whose effect log the auditor reads from its beginning."""
    with sandbox_process(tmp_path) as addresses:
        folder = tmp_path / "installation"
        folder.mkdir()
        yield Installation(folder, addresses, commands)


@contextmanager
def ledger_of(installation: Installation) -> Iterator[Ledger]:
    ledger = open_ledger(load_settings(installation.environment))
    yield ledger
    ledger.close()


def violations(installation: Installation, **known: Any) -> list[str]:
    """What the auditor finds: the vendors' side held against the ledger's."""
    log = installation.folder.parent / "effects.jsonl"
    with ledger_of(installation) as ledger:
        evidence = gather(ledger, installation.control, log, quiet_s=QUIET_S, **known)
    assert len(evidence.effects) > 0
    return audit(evidence)


def each_effect_once(subjects: int) -> dict[str, int]:
    return {"registration_updated": subjects, "device_registered": subjects, "dnd_exception_created": 1}


def changes(installation: Installation) -> Counter[str]:
    """Effects without the questions that end a doubt, and without updates that changed nothing."""
    found = Counter(entry["effect"] for entry in installation.control.effects() if entry["changed"])
    found.pop("access_code_issued", None)
    return found


def test_a_batch_that_is_killed_goes_on_with_the_same_command_and_each_effect_is_there_once(
    audited: Installation, sized: Callable[[int, int], int], record_property: Callable[[str, object], None]
) -> None:
    subjects = sized(600, 5000)  # enough for several processes
    path = many(audited, subjects)
    for killed_after in (subjects // 2, subjects * 3 // 2):
        with audited.started("batch", str(path)) as process:
            audited.control.effects(at_least=killed_after, timeout_s=_ENDS_S)
            process.kill()
            process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
    begun = time.monotonic()
    ran = audited.run("batch", str(path))
    took_s = time.monotonic() - begun
    record_property("seconds_of_the_last_run", round(took_s, 1))
    print(f"the last run, after two kills: {took_s:.1f} s for what was left of {subjects}")  # noqa: T201 - asked for
    assert ran.status == 0, ran.out + ran.err
    assert outcomes(path) == {"done": subjects}
    assert changes(audited) == each_effect_once(subjects)
    assert violations(audited) == []


def poisoned(rows: int, share: float) -> tuple[list[dict[str, str]], list[int], list[int]]:
    """Rows of which some cannot be taken, and some name a registration that is not there; numbers from 1."""
    chosen = random.Random(7).sample(range(1, rows + 1), round(rows * share))  # noqa: S311 - the same each time
    unreadable, refused = sorted(chosen[::2]), sorted(chosen[1::2])
    made = []
    for number in range(1, rows + 1):
        changed = {"registration__id": "none"} if number in unreadable else {}
        changed |= {"registration__id": str(9_000_000 + number)} if number in refused else {}
        made.append(subject_row(number, **changed))
    return made, unreadable, refused


FAULTS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("server_error", {}),
    ("cut", {"when": "before"}),
    ("cut", {"when": "after"}),
    ("throttle", {"retry_after": 1}),
    ("proxy_page", {}),
)


def random_faults(installation: Installation, requests: int, share: float) -> int:
    """Faults of every kind at random places of a batch's calls; returns how many."""
    chance = random.Random(11)  # noqa: S311 - the same each time
    calls = [("openspecimen", "read_registration"), ("openspecimen", "update_registration")]
    calls += [("clinical_one", call) for call in ("dispensation", "dispensation_history", "register_device")]
    count = round(requests * len(calls) * share)
    for _ in range(count):
        system, call = chance.choice(calls)
        kind, rule = chance.choice(FAULTS)
        installation.fault(system, kind, call=call, nth=chance.randint(1, requests), **rule)
    return count


def test_poisoned_rows_and_random_faults_keep_no_good_row_back_and_every_bad_one_is_explained(
    audited: Installation, sized: Callable[[int, int], int]
) -> None:
    subjects = sized(200, 1000)
    rows, unreadable, refused = poisoned(subjects, 0.1)
    audited.control.seed(seed.many(subjects))
    path = written(audited, *rows)
    assert random_faults(audited, subjects * 8 // 10, 0.05) == subjects // 5
    ran = audited.run("batch", str(path), "--skip-bad")
    assert ran.status == 4, ran.out + ran.err
    good = subjects - len(unreadable) - len(refused)
    assert outcomes(path) == {"done": good, "attention": len(refused), "not taken": len(unreadable)}, ran.out
    bad = {int(row["row"]): row for row in results(path) if row["outcome"] != "done"}
    assert sorted(bad) == sorted(unreadable + refused)
    assert all(row["code"] and row["what to do"] for row in bad.values())
    assert changes(audited) == each_effect_once(good)

    audited.control.remove_faults()
    mended = [
        {**row, "registration.id": subject_row(number)["registration.id"]}
        for row, number in zip(errors(path), sorted(bad), strict=True)
    ]
    before = len(audited.requests())
    retry = written(audited, *mended, name="mended.csv")
    again = audited.run("batch", str(retry))
    assert again.status == 0, again.out + again.err
    about = {str(seed.SeededSubject(n).registration_id): n for n in range(1, subjects + 1)}
    about |= {seed.SeededSubject(n).subject_id: n for n in range(1, subjects + 1)}
    about |= {seed.SeededSubject(n).inventory_id: n for n in range(1, subjects + 1)}
    touched = {
        number for entry in audited.requests()[before:] for thing, number in about.items() if thing in entry["path"]
    }
    assert touched == set(bad), "a rerun of the errors file touches only those"
    assert changes(audited) == each_effect_once(subjects)
    asked = frozenset(row["code"] for row in bad.values())
    assert violations(audited, for_a_person=asked) == []


@pytest.mark.postgres
def test_four_processes_that_work_one_file_at_once_create_one_exception(
    audited: Installation, postgres_url: str, sized: Callable[[int, int], int]
) -> None:
    subjects = sized(60, 200)
    audited.environment |= variables(ledger_url=postgres_url, ledger_key=LedgerKey.new_text())
    assert audited.run("migrate").status == 0
    path = many(audited, subjects)
    with ExitStack() as stack:
        running = [stack.enter_context(audited.started("batch", str(path))) for _ in range(4)]
        said = [process.communicate(timeout=_ENDS_S) for process in running]
    assert [process.returncode for process in running] == [0] * 4, said
    assert changes(audited) == each_effect_once(subjects)
    assert violations(audited) == []


def test_a_vendor_that_is_down_is_left_alone_and_the_batch_goes_on_when_it_is_back(audited: Installation) -> None:
    subjects = 100
    path = many(audited, subjects)
    rule = audited.fault("openspecimen", "cut", call="read_registration", nth="every", when="before")
    ran = audited.run("batch", str(path))
    assert ran.status == 3, ran.out + ran.err
    asked = len(audited.requests("read_registration"))
    assert asked < subjects, "no further case is begun once it looks dead"
    assert "it goes on with, from " in ran.out
    assert f"onboard batch {path}" in ran.out
    assert effects(audited) == {}
    with ledger_of(audited) as ledger:
        assert all(case.lease_left_s == 0 and case.due_at is not None for case in ledger.cases())
    audited.control.remove_faults(rule)
    with audited.started("resume", "--all", "--watch") as watch:
        audited.control.effects(at_least=2 * subjects + 1, timeout_s=_ENDS_S)
        _wait_until_done(audited, subjects)
        watch.send_signal(signal.SIGTERM)
        watch.communicate(timeout=60)
    assert changes(audited) == each_effect_once(subjects)
    assert violations(audited) == []


def _wait_until_done(installation: Installation, subjects: int) -> None:
    ends = time.monotonic() + _ENDS_S
    with ledger_of(installation) as ledger:
        while sum(case.status == "done" for case in ledger.cases()) < subjects:  # the ledger signals nobody
            assert time.monotonic() < ends
            time.sleep(_POLL_S * 10)


@pytest.mark.prefect
@pytest.mark.parametrize("small", [True, False])
def test_a_batch_by_the_flow_that_gets_sigterm_gives_every_lease_back_and_goes_on(
    audited: Installation, observing_server: PrefectServer, small: bool
) -> None:
    subjects = 12
    audited.environment |= variables(batch_task_runs=100 if small else 5, batch_chunk=4)
    audited.environment |= {
        "PREFECT_API_URL": observing_server.api_url,
        "PREFECT_HOME": str(audited.folder / "prefect-client"),
    }
    path = many(audited, subjects)
    rule = audited.fault("clinical_one", "hold", call="register_device", nth=3, when="after")
    with audited.started("batch", str(path), "--concurrency", "2") as process:
        audited.control.held(fault_id=rule, timeout_s=120)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert f"stopped; it goes on with: onboard batch {path} --concurrency 2" in out, err
    assert [case for case in audited.cases() if case["being_worked"]] == []
    audited.control.remove_faults()
    again = audited.run_afresh("batch", str(path))
    assert again.status == 0, again.err
    assert f"{subjects} of {subjects} done" in again.out
    assert "not observed" not in again.out
    assert changes(audited) == each_effect_once(subjects)
    assert violations(audited) == []


@pytest.mark.prefect
def test_on_a_terminal_what_prefect_logs_of_a_batch_stands_above_the_bars_and_is_not_much(
    audited: Installation, observing_server: PrefectServer
) -> None:
    path = many(audited, 3)
    rule = audited.fault("clinical_one", "hold", call="register_device", nth=3)

    def let_go(printed: bytes) -> None:
        if b"2 of 3 done" in printed:
            audited.control.remove_faults(rule)

    client = {"PREFECT_API_URL": observing_server.api_url, "PREFECT_HOME": str(audited.folder / "prefect-client")}
    reporting = {"DO_NOT_TRACK": None, "CI": None}
    printed = on_terminal(audited, "batch", str(path), changed={**client, **reporting}, meanwhile=let_go)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", printed))
    logged = [line for line in lines if re.search(r"\d\d:\d\d:\d\d\.\d{3} \|", line)]
    assert len(logged) == 1
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} \| INFO +\| prefect\.engine - View at http", logged[0])
    assert any("3 of 3 done" in line for line in lines)
    assert "usage data" not in printed


def test_a_file_given_while_its_own_batch_runs_is_shared_not_repeated(audited: Installation) -> None:
    subjects = 40
    path = many(audited, subjects)
    copy = audited.folder / "copy.csv"
    copy.write_text(csv_text(subject_row(number) for number in range(1, subjects + 1)))
    with ExitStack() as stack:
        running = [stack.enter_context(audited.started("batch", str(one))) for one in (path, copy)]
        for process in running:
            process.communicate(timeout=_ENDS_S)
            assert process.returncode == 0
    assert SandboxControl(audited.addresses["control_url"]).effects(effect="dnd_exception_created")
    assert changes(audited) == each_effect_once(subjects)
    assert violations(audited) == []
