"""Three workers share batches on PostgreSQL, while one after the other of what they stand on goes away and comes back."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen

import psutil
import pytest

from onboarding.endings import EXIT_ONBOARDED, EXIT_WAITING
from tests.acceptance.scaled_out import ENDS_S, Site, running_site, within
from tests.acceptance.test_batch import changes, each_effect_once, ledger_of, violations
from tests.acceptance.test_batch_workers import is_at_work, kill_with_children
from tests.cli.batch_lab import many, outcomes
from tests.support.installation import Installation, WarmCommands

STOPS_S = 60  # it takes one or two seconds, and many times that where others are at work too

pytestmark = [pytest.mark.prefect, pytest.mark.postgres]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, commands: WarmCommands) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site"), commands) as running:
        yield running


@pytest.fixture
def shared(site: Site, commands: WarmCommands, tmp_path: Path) -> Iterator[Installation]:
    """An installation with an empty ledger on PostgreSQL, three workers that have nothing to do, and slow vendors."""
    site.control.reset()
    site.control.switches(latency_ms=50)
    installation = site.installation(commands)
    installation.folder = tmp_path / "installation"
    installation.folder.mkdir()
    with site.postgres.server.fresh_database() as url:
        (site.folder / "settings.toml").write_text(f'ledger_url = "{url}"\n')
        assert installation.run("migrate").status == 0
        site.set_workers_up()
        yield installation


def batch_of(installation: Installation) -> str:
    """The only batch of the ledger."""
    with ledger_of(installation) as ledger:
        (batch_id,) = {case.batch_id for case in ledger.cases()}
    assert batch_id is not None
    return batch_id


def cases_done(installation: Installation) -> int:
    with ledger_of(installation) as ledger:
        return sum(case.status == "done" for case in ledger.cases())


def is_done(site: Site, installation: Installation, subjects: int) -> None:
    """Every case is done, each effect is there once, and the auditor finds nothing."""
    assert cases_done(installation) == subjects
    assert changes(installation) == each_effect_once(subjects)
    site.keep_effects(installation.folder.parent / "effects.jsonl")
    assert violations(installation) == []


def ends_done(process: Popen[str], path: Path, subjects: int) -> None:
    out, err = process.communicate(timeout=ENDS_S)
    assert process.returncode == 0, out + err
    assert outcomes(path) == {"done": subjects}


def test_three_workers_share_a_batch_and_one_that_is_killed_delays_only_its_chunk(
    site: Site, shared: Installation, record_property: Callable[[str, object], None]
) -> None:
    subjects = 300
    path = many(shared, subjects)
    with shared.started("batch", str(path)) as process:
        working = site.at_work(3)
        shared.control.effects(at_least=subjects // 3, timeout_s=ENDS_S)
        begun = time.monotonic()
        assert kill_with_children(working[0]) >= 2
        ends_done(process, path, subjects)
    record_property("seconds_from_the_kill_to_the_end", round(time.monotonic() - begun, 1))
    first, second, third, *later = site.runs("onboard-chunk", batch_of(shared))
    ended = [run["state"]["name"] for run in (first, second, third)]
    assert sorted(ended) == ["ChunkWorked", "ChunkWorked", "Crashed"]
    (left,) = [run for run in (first, second, third) if run["state"]["name"] == "Crashed"]
    assert {len(run["parameters"]["case_ids"]) for run in (first, second, third)} == {subjects // 3}
    gone_on = {case for run in later for case in run["parameters"]["case_ids"]}
    assert gone_on, "it had cases left"
    assert gone_on < set(left["parameters"]["case_ids"]), "no other chunk's case was touched again"
    is_done(site, shared, subjects)


def test_a_worker_stops_in_order_while_the_prefect_server_restarts_and_the_others_go_on(
    site: Site, shared: Installation
) -> None:
    subjects = 240
    path = many(shared, subjects)
    with shared.started("batch", str(path)) as process:
        stopped = site.at_work(3)[0].process
        family = psutil.Process(stopped.pid).children(recursive=True)
        shared.control.effects(at_least=20, timeout_s=ENDS_S)
        stopped.send_signal(signal.SIGTERM)
        stopped.wait(STOPS_S)
        site.stop_prefect()
        psutil.wait_procs(family, STOPS_S)
        assert [one for one in family if one.is_running()] == [], "nothing works on without its worker"
        assert cases_done(shared) < subjects, "it was in the middle"
        site.start_prefect()
        ends_done(process, path, subjects)
    is_done(site, shared, subjects)


def test_postgresql_restarts_in_the_middle_under_the_ledger_and_under_prefect(site: Site, shared: Installation) -> None:
    subjects = 150
    path = many(shared, subjects)
    with shared.started("batch", str(path)) as process:
        site.at_work(3)
        shared.control.effects(at_least=20, timeout_s=ENDS_S)
        site.postgres.stop_immediately()
        site.postgres.start()
        assert cases_done(shared) < subjects, "it stopped in the middle"
        ends_done(process, path, subjects)
    is_done(site, shared, subjects)


def test_cancelling_the_run_of_a_batch_stops_its_chunks_and_leaves_every_case_to_be_resumed(
    site: Site, shared: Installation
) -> None:
    subjects = 120
    file = many(shared, subjects).rename(site.inbox / "subjects.csv")
    an_hour_ago = time.time() - 3600
    os.utime(file, (an_hour_ago, an_hour_ago))
    run_id = site.start("onboard-batch", file=file.name)
    shared.control.effects(at_least=20, timeout_s=ENDS_S)
    site.cancel(run_id)
    assert site.ended(run_id) == "Cancelled"
    chunks = site.runs("onboard-chunk", batch_of(shared))
    assert len(chunks) == 3
    assert {site.ended(chunk["id"]) for chunk in chunks} == {"Cancelled"}
    within(ENDS_S, lambda: not any(is_at_work(one) for one in site.workers), "no run is left")
    with ledger_of(shared) as ledger:
        assert all(case.lease_left_s == 0 for case in ledger.cases()), "every lease was given back"
    assert 0 < cases_done(shared) < subjects
    shared.control.switches(latency_ms=0)

    def resumed() -> bool:
        ran = shared.run("resume", "--all", variables={"PREFECT_API_URL": None})
        assert ran.status in (EXIT_ONBOARDED, EXIT_WAITING), ran.out + ran.err
        return cases_done(shared) == subjects

    within(ENDS_S, resumed, "a request that was cut off is looked after when its quiet time is over")
    is_done(site, shared, subjects)


def test_setup_on_a_server_on_postgresql_leaves_what_it_made(site: Site, shared: Installation) -> None:
    outcomes_said = []
    for _ in range(2):
        ran = shared.run_afresh("setup", "--json")
        assert ran.status == 0, ran.err
        outcomes_said.append({line["outcome"] for line in ran.json_lines})
    assert "changed" in outcomes_said[0], "the schedules, which were switched off here"
    assert outcomes_said[1] == {"left"}
