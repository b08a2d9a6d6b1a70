"""`onboard setup` as far as it needs no Prefect server: the settings file, and what is said where there is no server."""

import stat
import tomllib
from pathlib import Path

import pytest

from onboarding.keys import LedgerKey
from tests.support.installation import Installation, variables

CONNECTIONS = ("OPENSPECIMEN_", "CLINICAL_ONE_")


def file_of(installation: Installation) -> Path:
    return installation.folder / "settings.toml"


def test_without_a_prefect_server_it_says_so_and_what_to_do(installation: Installation) -> None:
    ran = installation.run("setup")
    assert ran.status == 2
    (line,) = ran.said
    assert line.startswith("PREFECT_API_URL: there is no Prefect API that answers")
    assert "onboard up" in line
    assert "prefect server start" in line


def test_settings_of_the_environment_are_kept_for_every_door_and_found_without_it(installation: Installation) -> None:
    file_of(installation).unlink()
    key = LedgerKey.new_text()
    given = dict(variables(ledger_key=key, concurrency=7, modes="test", max_sends=4, inbox=installation.folder))
    ran = installation.run("setup", variables=given)
    assert ran.status == 2, "there is no server here"
    assert ran.out.startswith(f"created settings file {file_of(installation)}: ")
    kept = tomllib.loads(file_of(installation).read_text("utf-8"))
    assert kept == {
        "ledger_url": f"sqlite:///{installation.ledger_file}",
        "modes": ["test"],
        "lease_seconds": 6.0,
        "request_timeout_seconds": 2.0,
        "settle_seconds": 0.5,
        "concurrency": 7,
        "inbox": str(installation.folder),
        "loopback_only": True,
    }, "neither what has its default, nor the key, nor a connection"
    assert stat.S_IMODE(file_of(installation).stat().st_mode) == 0o600
    gone: dict[str, str | None] = {
        name: None
        for name in installation.environment
        if name.startswith("ONBOARDING_") and name != "ONBOARDING_SETTINGS_FILE" and not _is_connection(name)
    }
    assert "a request may take 2 s" in installation.run("doctor", variables=gone).out
    again = installation.run("setup", variables=given)
    assert again.out.startswith(f"left    settings file {file_of(installation)}\n")


def _is_connection(name: str) -> bool:
    return name.removeprefix("ONBOARDING_").startswith(CONNECTIONS)


@pytest.mark.parametrize("credentials", ["onboarding:hunter2@{}", "{}?user=onboarding&password=hunter2"])
def test_no_secret_is_shown(installation: Installation, credentials: str) -> None:
    key = LedgerKey.new_text()
    url = "postgresql+psycopg://" + credentials.format("127.0.0.1:9/onboarding")
    ran = installation.run("setup", variables=dict(variables(ledger_url=url, ledger_key=key)))
    other = installation.run("setup", variables=dict(variables(ledger_key=key)))
    assert other.status == 2
    assert "127.0.0.1:9" in other.said[0]
    shown = ran.out + ran.err + other.out + other.err
    for secret in (key, "hunter2", installation.environment["ONBOARDING_CLINICAL_ONE_CLIENT_SECRET"]):
        assert secret not in shown
    assert key not in file_of(installation).read_text("utf-8")


def test_a_ledger_that_differs_in_what_is_not_shown_is_said_to(installation: Installation) -> None:
    file_of(installation).write_text('ledger_url = "postgresql+psycopg://127.0.0.1:9/onboarding?password=hunter2"\n')
    url = "postgresql+psycopg://127.0.0.1:9/onboarding?password=hunter3"
    ran = installation.run("setup", variables=dict(variables(ledger_url=url)))
    assert ran.status == 2
    assert "names it with another password or other options" in ran.said[0]
    assert "hunter" not in ran.out + ran.err


def test_a_ledger_other_than_that_of_the_settings_file_is_refused_and_nothing_is_changed(
    installation: Installation,
) -> None:
    before = 'ledger_url = "sqlite:////elsewhere/ledger.db"\n'
    file_of(installation).write_text(before)
    ran = installation.run("setup", variables=dict(variables(concurrency=7)))
    assert ran.status == 2
    (line,) = ran.said
    assert line.startswith("ONBOARDING_LEDGER_URL: ")
    assert str(installation.ledger_file) in line
    assert "/elsewhere/ledger.db" in line
    assert file_of(installation).read_text() == before
    assert ran.out == ""


def test_what_people_wrote_into_the_file_stays(installation: Installation) -> None:
    file_of(installation).write_text(
        '# Agreed with the site.\nconcurrency = 5  # mornings\nmodes = [\n  "training",\n]\n'
    )
    ran = installation.run("setup", variables=dict(variables(concurrency=9)))
    assert ran.out.startswith("changed settings file")
    text = file_of(installation).read_text("utf-8")
    assert text.startswith('# Agreed with the site.\nconcurrency = 9\nmodes = [\n  "training",\n]\n')
    assert tomllib.loads(text)["modes"] == ["training"]
    assert stat.S_IMODE(file_of(installation).stat().st_mode) == 0o600


def test_a_value_over_several_lines_is_replaced_as_a_whole(installation: Installation) -> None:
    file_of(installation).write_text('modes = [\n  "training",\n]\n')
    installation.run("setup", variables=dict(variables(modes="test,training")))
    assert tomllib.loads(file_of(installation).read_text("utf-8"))["modes"] == ["test", "training"]


@pytest.mark.parametrize("path", ["/dev/null", "/"])
def test_nothing_but_a_file_is_replaced(installation: Installation, path: str) -> None:
    ran = installation.run("setup", variables=dict(variables(settings_file=path)))
    assert ran.status == 2
    assert ran.said == [f"ONBOARDING_SETTINGS_FILE: {path} is no file; name one, or unset it."]
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("place", ["file/settings.toml", "file/below/settings.toml", f"{'long' * 70}/settings.toml"])
def test_a_settings_file_that_cannot_be_made_is_named(installation: Installation, place: str) -> None:
    (installation.folder / "file").touch()
    path = installation.folder / place
    ran = installation.run("setup", variables=dict(variables(settings_file=path)))
    assert ran.status == 2
    (line,) = ran.said
    assert line.startswith(f"ONBOARDING_SETTINGS_FILE: {path} cannot be written (")


def test_a_wrong_setting_is_named_and_nothing_is_written(installation: Installation) -> None:
    ran = installation.run("setup", variables=dict(variables(max_sends=0, concurrency=9)))
    assert (ran.status, ran.out) == (2, "")
    assert ran.said[0].startswith("ONBOARDING_MAX_SENDS: ")
    assert file_of(installation).read_text() == ""
