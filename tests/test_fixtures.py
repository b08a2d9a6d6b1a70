"""The tests' own ground: the environment is clean, nothing leaves this machine, PostgreSQL is real and durable."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text

from tests.support.environment import clean_environment, is_hostile
from tests.support.installation import IGNORING_SIGINT, ROOT
from tests.support.loopback import ForbiddenContact, ForbiddenContacts
from tests.support.postgres import PostgresServer


@pytest.mark.parametrize(
    "name",
    ["ONBOARDING_LEDGER_URL", "PREFECT_API_URL", "https_proxy", "ALL_PROXY", "PGHOST", "PYTHONPATH", "PYTEST_ADDOPTS"],
)
def test_hostile_variables_are_dropped(name: str) -> None:
    assert name not in clean_environment({name: "http://vendor.example"}, Path("home"))


def test_what_a_test_needs_of_the_shell_is_kept() -> None:
    kept = clean_environment({"PATH": "/usr/bin", "TMPDIR": "/somewhere"}, Path("home"))
    assert (kept["PATH"], kept["TMPDIR"], kept["HOME"]) == ("/usr/bin", "/somewhere", "home")


def test_this_process_was_scrubbed(test_home: Path) -> None:
    left = {name for name in os.environ if is_hostile(name)}
    assert left == {name for name in clean_environment({}, test_home) if is_hostile(name)}
    assert Path.home() == test_home


def test_what_tests_start_heeds_sigint_even_if_they_run_in_the_background_of_a_script() -> None:
    heeds = "import signal; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {heeds!r}], check=True)"
    scrubbed = f"from tests.support.environment import scrub_this_process; scrub_this_process(); {starts}"
    command = [*IGNORING_SIGINT, sys.executable, "-c"]
    assert subprocess.run([*command, heeds], stderr=subprocess.DEVNULL, check=False).returncode == 1
    subprocess.run([*command, scrubbed], cwd=ROOT, check=True)


def test_another_machine_is_never_contacted(forbidden_contacts: ForbiddenContacts) -> None:
    with socket.socket() as outgoing, pytest.raises(ForbiddenContact):
        outgoing.connect(("192.0.2.1", 443))  # an address reserved for documentation
    assert forbidden_contacts.take() == ["192.0.2.1:443"]


@pytest.mark.postgres
def test_every_test_gets_an_empty_database_of_its_own(postgres: PostgresServer, postgres_url: str) -> None:
    with postgres.fresh_database() as other_url:
        assert other_url != postgres_url
        for url in (postgres_url, other_url):
            engine = create_engine(url)
            with engine.begin() as connection:
                connection.execute(text("CREATE TABLE only_here (id integer)"))
            engine.dispose()


@pytest.mark.postgres
def test_the_postgres_server_is_durable_and_unprivileged(postgres: PostgresServer) -> None:
    with psycopg.connect(postgres.admin_dsn) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute(f"SHOW {setting}").fetchone() == ("on",)
    owner = Path(f"/proc/{postgres.pid}")
    if owner.exists():
        assert owner.stat().st_uid != 0
