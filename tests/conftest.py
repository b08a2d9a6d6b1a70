"""What every test has: a clean environment, loopback only, and a real PostgreSQL for those that ask for it."""

from tests.support.environment import scrub_this_process

# First of all: Prefect and the project read the environment when they are imported.
_HOME = scrub_this_process()

from collections.abc import Iterator  # noqa: E402 - after the scrub
from pathlib import Path  # noqa: E402 - after the scrub

import pytest  # noqa: E402 - after the scrub
from hypothesis import HealthCheck, Phase, settings  # noqa: E402 - after the scrub

from tests.support.loopback import ForbiddenContacts, forbid_all_but_loopback  # noqa: E402 - after the scrub
from tests.support.postgres import PostgresServer, running_postgres  # noqa: E402 - after the scrub

# Two shared cores make single examples slow now and then, which says nothing about the code.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
# For `make mutants`: the same examples each time, and no search for the smallest, since any failure will do.
settings.register_profile(
    "mutants",
    settings.get_profile("project"),
    max_examples=30,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)
settings.load_profile("project")

_CONTACTS = forbid_all_but_loopback()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the browser's tests."""
    group = parser.getgroup("browser")
    group.addoption(
        "--require-browser", action="store_true", help="fail where there is no Chromium, instead of skipping"
    )
    group.addoption("--screenshots", action="store_true", help="take the pictures of docs/images anew")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need PostgreSQL; keep those that share a Prefect server, or a played matrix, in one process."""
    for item in items:
        names = getattr(item, "fixturenames", ())
        if "postgres" in names:
            item.add_marker(pytest.mark.postgres)
        if "prefect_server" in names:
            item.add_marker(pytest.mark.xdist_group("prefect"))
        elif "played" in names:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))


@pytest.fixture(scope="session")
def forbidden_contacts() -> ForbiddenContacts:
    """Every attempt of this process to contact another machine."""
    return _CONTACTS


@pytest.fixture(autouse=True)
def _only_loopback_is_contacted(forbidden_contacts: ForbiddenContacts) -> Iterator[None]:
    yield
    contacts = forbidden_contacts.take()
    assert not contacts, f"the test tried to contact another machine: {contacts}"


@pytest.fixture(scope="session")
def test_home() -> Path:
    """The temporary home folder that this process and its children have instead of the real one."""
    return _HOME


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server on 127.0.0.1, durable, stopped at the end of the session."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """A fresh, empty database for this test alone, as `postgresql+psycopg://...`."""
    with postgres.fresh_database() as url:
        yield url
