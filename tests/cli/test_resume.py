"""`onboard resume --all` and `--watch`: every due case, the oldest first, whatever stopped it."""

import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from onboarding.intake import parse_request
from onboarding.ledger import batches, drafting
from onboarding.ledger.drafting import Draft
from onboarding.ledger.ledger import Ledger, open_ledger
from onboarding.ledger.opening import Addresses
from onboarding.ledger.preparing import prepare
from onboarding.settings import load_settings
from tests.cli.batch_lab import written
from tests.steps.lab import only
from tests.support.batch_files import subject_row
from tests.support.installation import Installation, variables, without
from vendor_sandbox import seed

EVERY_EFFECT = ["registration_updated", "device_registered", "dnd_exception_created"]


@contextmanager
def ledger_of(installation: Installation) -> Iterator[Ledger]:
    ledger = open_ledger(load_settings(installation.environment))
    yield ledger
    ledger.close()


def open_cases(installation: Installation, *subjects: int, **changes: Any) -> list[str]:
    """Cases that nobody has worked yet, the oldest first; each wants the same exception."""
    addresses = Addresses(installation.addresses["openspecimen_url"], installation.addresses["clinical_one_url"])
    wanted = [only("dnd_exception", subject__subject_id=seed.subject_id(number), **changes) for number in subjects]
    with ledger_of(installation) as ledger:
        return [ledger.open_case(parse_request(one), addresses, actor="tester").case_id for one in wanted]


def worked(ran: Any) -> list[str]:
    return [line["case"] for line in ran.json_lines]


def test_nothing_to_resume_is_no_fault(installation: Installation) -> None:
    installation.run("migrate")
    ran = installation.run("resume", "--all")
    assert (ran.status, ran.out, ran.err) == (0, "", "")


def test_every_due_case_is_worked_the_oldest_first_and_no_more_than_asked_for(installation: Installation) -> None:
    cases = open_cases(installation, 4, 3, 2, 1)
    one = installation.run("resume", "--all", "--limit", "1", "--json")
    assert worked(one) == cases[:1]
    rest = installation.run("resume", "--all", "--json")
    assert (rest.status, sorted(worked(rest))) == (0, sorted(cases[1:]))
    assert installation.effects() == ["dnd_exception_created"]


def test_cases_that_need_a_person_or_other_settings_or_wait_are_left_alone(installation: Installation) -> None:
    installation.fault("openspecimen", "refuse", call="update_registration", code="CPR_DUP_PPID")
    assert installation.run("subject", installation.request(only("registration"))).status == 4
    assert installation.run("subject", installation.request(only("device", **NOT_DISPENSED))).status == 3
    sent = len(installation.requests())
    ran = installation.run("resume", "--all")
    assert (ran.status, ran.out) == (0, "")
    assert len(installation.requests()) == sent


NOT_DISPENSED = {"subject__subject_id": seed.subject_id(5), "device__inventory_id": seed.inventory_id(5)}


def test_a_case_whose_log_in_is_refused_is_left_alone_until_that_changes(installation: Installation) -> None:
    wrong = variables(clinical_one_client_secret="wrong")
    assert installation.run("subject", installation.request(only("dnd_exception")), variables=wrong).status == 3
    again = installation.run("resume", "--all", variables=wrong)
    assert (again.status, again.out) == (0, "")
    assert len(installation.requests("token")) == 1
    assert installation.run("resume", "--all").status == 0
    assert installation.effects() == ["dnd_exception_created"]


@pytest.mark.parametrize(("faults", "status"), [((), 0), (("throttle",), 3), (("refuse", "throttle"), 4)])
def test_the_exit_status_is_that_of_the_case_that_most_wants_to_be_looked_at(
    installation: Installation, faults: tuple[str, ...], status: int
) -> None:
    open_cases(installation, *range(1, 4))
    for number, kind in enumerate(faults, start=1):
        rule: dict[str, Any] = {"retry_after": 60} if kind == "throttle" else {"phrase": "Invalid study ID or version"}
        installation.fault("clinical_one", kind, call="list_exceptions", nth=number, **rule)
    assert installation.run("resume", "--all").status == status


def test_a_case_that_cannot_be_read_is_named_and_keeps_no_other_from_its_turn(installation: Installation) -> None:
    cases = open_cases(installation, 1, 2)
    with sqlite3.connect(installation.ledger_file) as database:
        database.execute("UPDATE onboarding_case SET request_sealed = x'00' WHERE id = ?", [cases[0]])
    database.close()
    ran = installation.run("resume", "--all", "--json")
    assert (ran.status, worked(ran)) == (1, cases[1:])
    assert all(cases[0] in line for line in ran.said)
    assert installation.effects() == ["dnd_exception_created"]


def test_a_fault_of_this_program_in_one_case_keeps_no_other_from_its_turn(installation: Installation) -> None:
    cases = open_cases(installation, 1, 2)
    with sqlite3.connect(installation.ledger_file) as database:
        database.execute("UPDATE onboarding_case SET late_answers = '{' WHERE id = ?", [cases[0]])
    database.close()
    ran = installation.run("resume", "--all", "--json")
    assert (ran.status, worked(ran)) == (1, cases[1:])
    assert "Traceback" not in ran.err
    (said,) = [line for line in ran.said if "unexpected JSONDecodeError" in line]
    assert cases[0] in said


def test_cases_of_a_mode_that_is_not_allowed_here_keep_no_other_from_its_turn(installation: Installation) -> None:
    open_cases(installation, 1, subject__mode="training")
    allowed = open_cases(installation, 2)
    ran = installation.run("resume", "--all", "--limit", "1", "--json", variables=variables(modes="test"))
    assert (ran.status, worked(ran)) == (0, allowed)


def test_what_was_refused_in_a_batch_and_is_mended_is_tried_again_by_one_command(installation: Installation) -> None:
    installation.control.seed(seed.many(4))
    refused = {
        number: installation.fault("openspecimen", "refuse", call="update_registration", nth=number, code=code)
        for number, code in ((1, "CPR_DUP_PPID"), (2, "CPR_DUP_PPID"), (3, "SITE_NOT_FOUND"))
    }
    assert len(refused) == 3
    path = written(installation, *(subject_row(number) for number in range(1, 5)))
    ran = installation.run("batch", str(path), "--concurrency", "1")
    assert ran.status == 4
    batch_id = only_batch(installation)
    assert f"onboard resume --batch {batch_id}" in ran.out
    assert installation.effects().count("registration_updated") == 1

    one = installation.run("resume", "--batch", batch_id, "--code", "SITE_NOT_FOUND", "--json")
    assert (one.status, [line["ending"] for line in one.json_lines]) == (0, ["Onboarded"])
    rest = installation.run("resume", "--batch", batch_id.lower(), "--json")
    assert (rest.status, [line["ending"] for line in rest.json_lines]) == (0, ["Onboarded"] * 2)
    assert installation.effects().count("registration_updated") == 4
    none = installation.run("resume", "--batch", batch_id)
    assert (none.status, none.out, none.said) == (0, "", [f"no case of batch {batch_id} needs a person."])
    unknown = installation.run("resume", "--batch", "BATCH")
    assert (unknown.status, unknown.said) == (2, ["--batch: there is no batch BATCH in this ledger."])


def only_batch(installation: Installation) -> str:
    (batch_id,) = {case["batch"] for case in installation.cases()}
    return str(batch_id)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("CASE", "--all"),
        ("CASE", "--watch"),
        ("--all", "--limit", "0"),
        ("CASE", "--batch", "BATCH"),
        ("--all", "--batch", "BATCH"),
        ("CASE", "--code", "CPR_DUP_PPID"),
    ],
)
def test_what_is_to_be_resumed_must_be_clear(installation: Installation, words: tuple[str, ...]) -> None:
    ran = installation.run("resume", *words)
    assert ran.status == 2
    assert len(ran.said) == 1


# Watching


def killed_while_sending(installation: Installation, **settings: float) -> str:
    """A runner that was killed with SIGKILL while its device was being registered."""
    rule = installation.fault("clinical_one", "hold", call="register_device", when="after")
    with installation.started("subject", installation.request(), variables=variables(**settings)) as process:
        installation.control.held(timeout_s=60)
        process.kill()
        process.communicate(timeout=30)
    installation.control.remove_faults(rule)
    case = installation.case()
    assert (case["status"], case["being_worked"]) == ("ready", True)
    return str(case["case"])


def wait_for(installation: Installation, what: Any, timeout_s: float = 60) -> float:
    """Wait until something is so in the ledger, which signals nobody; gives the moment on this machine's clock."""
    ends = time.monotonic() + timeout_s
    with ledger_of(installation) as ledger:
        while not what(ledger):
            assert time.monotonic() < ends, "it did not come to be"
            time.sleep(0.01)
    return time.monotonic()


def test_a_watch_goes_on_with_a_killed_run_as_soon_as_its_lease_is_over(
    installation: Installation, record_property: Callable[[str, object], None]
) -> None:
    case = killed_while_sending(installation)  # before the watch begins, which would be first otherwise
    with installation.started("resume", "--all", "--watch") as watch:
        with ledger_of(installation) as ledger:
            found = ledger.case(case)
            assert found is not None
            ends, takings = time.monotonic() + found.lease_left_s, found.takings
        taken = wait_for(installation, lambda ledger: ledger.case(case).takings > takings)
        record_property("seconds_from_lease_end_to_next_step", round(taken - ends, 3))
        print(f"from the lease's end to the next step: {taken - ends:.3f} s")  # noqa: T201 - the figure is asked for
        assert watch.stdout is not None
        assert watch.stdout.readline().startswith(f"Case {case}: Onboarded")
        watch.send_signal(signal.SIGTERM)
        _, err = watch.communicate(timeout=30)
    assert taken >= ends - 0.1, "not before its end"
    assert watch.returncode == 1
    assert "Traceback" not in err
    assert [effect for effect in installation.effects() if effect != "access_code_issued"] == EVERY_EFFECT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_watch_that_is_stopped_gives_every_lease_back(installation: Installation, number: signal.Signals) -> None:
    installation.run("migrate")
    installation.fault("clinical_one", "hold", call="list_exceptions")
    with installation.started("resume", "--all", "--watch") as watch:
        (case,) = open_cases(installation, 1)
        installation.control.held(timeout_s=60)
        watch.send_signal(number)
        _, err = watch.communicate(timeout=30)
    assert watch.returncode == 1
    assert "Traceback" not in err
    assert err.startswith("onboard: Stopped.")
    found = installation.case()
    assert (found["case"], found["status"], found["being_worked"]) == (case, "ready", False)
    installation.control.remove_faults()
    assert installation.run("resume", "--all").status == 0


def test_a_watch_finishes_a_release_that_is_interrupted_while_it_watches(installation: Installation) -> None:
    installation.run("migrate")
    with installation.started("resume", "--all", "--watch") as watch:
        (first,) = open_cases(installation, 1)
        wait_for(installation, lambda ledger: ledger.case(first).status == "done")  # so it watches
        addresses = Addresses(installation.addresses["openspecimen_url"], installation.addresses["clinical_one_url"])
        wanted = parse_request(only("dnd_exception", subject__subject_id=seed.subject_id(2)))
        with ledger_of(installation) as ledger:
            batch_id = batches.open_batch(ledger, addresses, actor="tester")
            drafting.add_rows(ledger, batch_id, [Draft(1, 2, prepare(ledger.key, wanted))])
            said = "UPDATE onboarding_batch SET state = 'releasing', file_digest = 'd', rows = 1"
            ledger.store.write(lambda connection: connection.exec_driver_sql(said))  # and then its process was killed
        wait_for(installation, lambda ledger: [case.status for case in ledger.cases()] == ["done", "done"])
        watch.terminate()
        watch.communicate(timeout=30)


def test_a_slow_vendor_keeps_no_other_case_from_its_turn(installation: Installation) -> None:
    installation.run("migrate")
    installation.fault("clinical_one", "hold", call="dispensation")
    with installation.started(
        "resume", "--all", "--watch", variables=variables(request_timeout_seconds=60, lease_seconds=90)
    ) as watch:
        addresses = Addresses(installation.addresses["openspecimen_url"], installation.addresses["clinical_one_url"])
        with ledger_of(installation) as ledger:
            slow = ledger.open_case(parse_request(only("device")), addresses, actor="tester").case_id
        installation.control.held(timeout_s=60)
        (other,) = open_cases(installation, 2)
        wait_for(installation, lambda ledger: ledger.case(other).status == "done")
        with ledger_of(installation) as ledger:
            assert ledger.case(slow).lease_left_s > 0  # type: ignore[union-attr]
        watch.terminate()
        watch.communicate(timeout=30)
    assert installation.effects() == ["dnd_exception_created"]


def test_a_dead_run_that_prefect_would_still_show_as_running_is_gone_on_with(installation: Installation) -> None:
    """What Prefect shows is never asked: without its API the very same cases are found."""
    case = killed_while_sending(installation, lease_seconds=1, request_timeout_seconds=0.5, settle_seconds=0.1)
    wait_for(installation, lambda ledger: ledger.case(case).lease_left_s == 0)
    ran = installation.run("resume", "--all", "--json", variables=without("prefect_api_url"))
    assert (ran.status, worked(ran)) == (0, [case])
