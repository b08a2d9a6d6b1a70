"""Bad settings, unreachable systems, refused log-ins and wrong keys: which one, which setting, what to check."""

import re
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from cli.local import free_port
from onboarding.keys import LedgerKey
from tests.cli.batch_lab import many
from tests.support.batch_files import exception_row
from tests.support.installation import Installation, variables, without
from vendor_sandbox import seed


def unset(name: str) -> dict[str, object]:
    return {name: ""}


SETTINGS: list[tuple[dict[str, object], str, str]] = [
    ({"modes": "nonsense"}, "MODES", "'test', 'training' or 'active'"),
    ({"modes": ","}, "MODES", "allowed are test, training, active"),
    ({"lease_seconds": "soon"}, "LEASE_SECONDS", "a valid number"),
    ({"lease_seconds": "nan"}, "LEASE_SECONDS", "must be less than or equal to 3600"),
    ({"request_timeout_seconds": 0}, "REQUEST_TIMEOUT_SECONDS", "greater than 0"),
    ({"request_timeout_seconds": "inf"}, "REQUEST_TIMEOUT_SECONDS", "600"),
    ({"settle_seconds": -1}, "SETTLE_SECONDS", "greater than or equal to 0"),
    ({"max_wait_days": 0}, "MAX_WAIT_DAYS", "greater than 0"),
    ({"max_sends": 0}, "MAX_SENDS", "greater than or equal to 1"),
    ({"max_sends": 1.5}, "MAX_SENDS", "integer"),
    ({"allow_plain_http": "maybe"}, "ALLOW_PLAIN_HTTP", "valid boolean"),
    ({"ca_file": "/nonexistent/ca.pem"}, "CA_FILE", "PEM"),
    ({"ca_file": "/"}, "CA_FILE", "PEM"),
    ({"ledger_url": "sqlite:///relative.db"}, "LEDGER_URL", "must be absolute"),
    ({"ledger_url": "sqlite://"}, "LEDGER_URL", "must be absolute"),
    ({"ledger_url": "mysql://host/database"}, "LEDGER_URL", "use sqlite or postgresql+psycopg"),
    ({"ledger_url": "nonsense"}, "LEDGER_URL", "sqlite:////path.db or postgresql"),
    ({"ledger_url": "postgresql://host:port/database"}, "LEDGER_URL", "sqlite:////path.db or postgresql"),
    ({"ledger_key": "too short"}, "LEDGER_KEY", "32 bytes in URL-safe base64"),
    ({"ledger_key": "\u00e9" * 44}, "LEDGER_KEY", "32 bytes in URL-safe base64"),
    ({"settings_file": "/nonexistent/settings.toml"}, "SETTINGS_FILE", "there is no file"),
    ({"settings_file": "/"}, "SETTINGS_FILE", "cannot be read"),
    ({"openspecimen_url": "nonsense"}, "OPENSPECIMEN_URL", "write it like https://"),
    ({"openspecimen_url": "ftp://127.0.0.1/openspecimen"}, "OPENSPECIMEN_URL", "write it like https://"),
    ({"openspecimen_url": "https://127.0.0.1:99999/openspecimen"}, "OPENSPECIMEN_URL", "write it like https://"),
    ({"openspecimen_url": "https://a..b/openspecimen"}, "OPENSPECIMEN_URL", "write it like https://"),
    ({"openspecimen_url": "https://exa mple.org/x"}, "OPENSPECIMEN_URL", "write it like https://"),
    ({"openspecimen_url": f"https://{'a' * 64}.org/x"}, "OPENSPECIMEN_URL", "write it like https://"),
    ({"openspecimen_url": "https://[::1/openspecimen"}, "OPENSPECIMEN_URL", "write it like https://"),
    ({"openspecimen_url": "http://user:hunter2@127.0.0.1/x"}, "OPENSPECIMEN_URL", "must hold no user, password"),
    ({"openspecimen_url": "http://127.0.0.1/x?y"}, "OPENSPECIMEN_URL", "must hold no user, password, query"),
    ({"openspecimen_url": "https://10.0.0.1/openspecimen"}, "OPENSPECIMEN_URL", "not on this machine"),
    ({"openspecimen_url": "https://[::ffff:10.0.0.1]/x"}, "OPENSPECIMEN_URL", "not on this machine"),
    ({"openspecimen_url": "https://127.0.0.1.example.org/x"}, "OPENSPECIMEN_URL", "not on this machine"),
    ({"clinical_one_url": "https://example.org"}, "CLINICAL_ONE_URL", "not on this machine"),
    ({"clinical_one_token_url": "https://example.org/token"}, "CLINICAL_ONE_TOKEN_URL", "not on this machine"),
    (
        {"openspecimen_url": "http://10.0.0.1/openspecimen", "loopback_only": "false"},
        "OPENSPECIMEN_URL",
        "ONBOARDING_ALLOW_PLAIN_HTTP",
    ),
    ({"openspecimen_time_zone": "Mars/Base"}, "OPENSPECIMEN_TIME_ZONE", "Europe/Berlin"),
    ({"openspecimen_time_zone": "Europe"}, "OPENSPECIMEN_TIME_ZONE", "Europe/Berlin"),
    ({"openspecimen_time_zone": "../../etc/passwd"}, "OPENSPECIMEN_TIME_ZONE", "Europe/Berlin"),
    ({"clinical_one_dnd_path": ".."}, "CLINICAL_ONE_DND_PATH", "one path segment"),
    ({"clinical_one_dnd_path": "a/b"}, "CLINICAL_ONE_DND_PATH", "one path segment"),
    *(
        (unset(name), name.upper(), "is missing")
        for name in (
            "openspecimen_url",
            "openspecimen_username",
            "openspecimen_password",
            "clinical_one_url",
            "clinical_one_token_url",
            "clinical_one_client_id",
            "clinical_one_client_secret",
            "clinical_one_scope",
        )
    ),
]


@pytest.mark.parametrize(
    ("settings", "name", "allowed"), SETTINGS, ids=[f"{name}-{number}" for number, (_, name, _) in enumerate(SETTINGS)]
)
def test_a_wrong_setting_is_named_with_what_is_allowed(
    installation: Installation, settings: dict[str, object], name: str, allowed: str
) -> None:
    assert installation.run("migrate").status == 0
    ran = installation.run("subject", installation.request(), variables=dict(variables(**settings)))
    (line,) = ran.said
    assert ran.status == 2
    assert line.startswith(f"ONBOARDING_{name}: ")
    assert allowed in line
    assert "hunter2" not in line
    assert installation.requests() == []
    assert installation.cases() == []


def test_every_wrong_setting_has_a_line_of_its_own(installation: Installation) -> None:
    (installation.folder / "settings.toml").write_text('max_sends = 0\nnonsense = 1\nledger_key = 5\nmodes = ["x"]\n')
    ran = installation.run("status", variables=dict(variables(lease_seconds="x")))
    assert ran.status == 2
    said = "\n".join(ran.said)
    for name in ("max_sends", "nonsense", "ledger_key", "modes", "ONBOARDING_LEASE_SECONDS"):
        assert len(re.findall(rf"^.*\b{name}\b.*$", said, re.MULTILINE)) >= 1
    assert len(ran.said) == 5
    assert "settings.toml" in said


def test_a_settings_file_that_is_no_toml_is_named(installation: Installation) -> None:
    (installation.folder / "settings.toml").write_bytes(b"\xff\xfe\x00")
    assert "settings.toml" in installation.run("status").said[0]
    (installation.folder / "settings.toml").write_text("a b c")
    assert "not valid TOML" in installation.run("status").said[0]


@pytest.mark.parametrize("command", ["subject", "migrate"])
def test_nothing_is_done_without_the_assertions_that_stop_what_must_never_be(
    installation: Installation, command: str
) -> None:
    request = [installation.request()] if command == "subject" else []
    ran = installation.run_afresh(command, *request, variables={"PYTHONOPTIMIZE": "1"})
    (line,) = ran.said
    assert ran.status == 2
    assert line.startswith("PYTHONOPTIMIZE: ")
    assert installation.requests() == []


def test_no_connection_at_all_is_said_for_both_systems(installation: Installation) -> None:
    unset = without(
        *(name.removeprefix("ONBOARDING_").lower() for name in installation.environment if "OPENSPECIMEN" in name),
        *(name.removeprefix("ONBOARDING_").lower() for name in installation.environment if "CLINICAL_ONE" in name),
    )
    ran = installation.run("subject", installation.request(), variables=unset)
    assert ran.status == 2
    assert [line.split(":")[0] for line in ran.said] == ["OpenSpecimen", "Clinical One"]
    assert "ONBOARDING_OPENSPECIMEN_URL" in ran.said[0]
    assert "clinical-one/default" in ran.said[1]


WRONG_ADDRESSES = {
    "openspecimen_url": ("http://127.0.0.1:{closed}/openspecimen", "OpenSpecimen", "CONNECT_REFUSED"),
    "clinical_one_url": ("http://127.0.0.1:{closed}", "Clinical One", "CONNECT_REFUSED"),
    "clinical_one_token_url": ("http://127.0.0.1:{closed}/token", "Clinical One", "CONNECT_REFUSED"),
    "openspecimen_url over TLS": ("https{openspecimen}", "OpenSpecimen", "TLS_FAILED"),
    "clinical_one_token_url elsewhere": ("http{clinical_one}/oauth", "Clinical One", "UNEXPECTED_ANSWER"),
}


def wrong_address(installation: Installation, name: str) -> tuple[dict[str, str | None], str, list[str]]:
    """A setting that leads nowhere, how it is called, and what must be said about it."""
    address, system, code = WRONG_ADDRESSES[name]
    places = {
        key: installation.addresses[f"{key}_url"].removeprefix("http") for key in ("openspecimen", "clinical_one")
    }
    setting = name.split(maxsplit=1)[0]
    said = [code, f"{system}: ", setting.upper().removeprefix("CLINICAL_ONE")]
    return dict(variables(**{setting: address.format(closed=free_port(), **places)})), setting, said


@pytest.mark.parametrize("name", WRONG_ADDRESSES)
def test_the_doctor_names_the_setting_of_an_address_that_leads_nowhere(installation: Installation, name: str) -> None:
    wrong, _, said = wrong_address(installation, name)
    ran = installation.run("doctor", "--study", seed.STUDY_ID, variables=wrong)
    assert ran.status == 1
    (line,) = [line for line in ran.out.splitlines() if line.startswith("BAD")]
    assert all(words in line for words in said), line


def test_a_case_waits_for_a_system_that_cannot_be_reached_and_keeps_to_its_address(installation: Installation) -> None:
    file = installation.request()
    with ExitStack() as stack:  # at the same time, since each waits for some seconds before it parks its case
        runs = {}
        for number, name in enumerate(WRONG_ADDRESSES):
            wrong, setting, said = wrong_address(installation, name)
            ledger = variables(ledger_url=f"sqlite:///{installation.folder}/{number}.db")
            process = stack.enter_context(installation.started("subject", file, variables=wrong | ledger))
            runs[name] = (process, dict(ledger), setting, said)
        for name, (process, ledger, setting, said) in runs.items():
            out, err = process.communicate(timeout=120)
            assert process.returncode == 3, (name, err)
            made, *waits = err.splitlines()
            assert "there was no ledger at " in made
            assert all("Looking again in" in line and said[1] in line for line in waits), (name, err)
            assert waits, "it must say why nothing seems to happen"
            assert any(all(words in line for words in said) for line in out.splitlines()), (name, out)
            case = installation.run("status", "--json", variables=dict(ledger)).json_lines[0]["case"]
            resumed = installation.run("resume", case, variables=dict(ledger))
            if setting == "clinical_one_token_url":  # where tokens come from is not where the case's data is
                assert resumed.status == 0, name
            else:
                assert resumed.status == 4, name
                assert "SETTINGS_CHANGED: The case was opened for other systems" in resumed.out


def test_a_listener_that_never_answers_is_given_up_in_time(installation: Installation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/openspecimen"
        settings = dict(variables(openspecimen_url=url, request_timeout_seconds=0.3))
        ran = installation.run("doctor", variables=settings)
    assert ran.status == 1
    assert "DEADLINE_PASSED" in ran.out


def test_a_wrong_password_is_tried_once_until_it_changes(installation: Installation) -> None:
    file = installation.request()
    wrong = dict(variables(openspecimen_password="wrong"))
    first = installation.run("subject", file, variables=wrong)
    assert first.status == 3
    assert "ONBOARDING_OPENSPECIMEN_USERNAME or _PASSWORD" in first.out
    assert "until the log-in's settings change" in first.out
    case = installation.case()["case"]
    for words in (("subject", file), ("resume", case), ("doctor",), ("subject", file, "--dry-run")):
        ran = installation.run(*words, variables=wrong)
        assert ran.status != 0
        assert "AUTH_INVALID_CREDENTIALS" in ran.out
    assert len(installation.requests("login")) == 1
    assert installation.run("resume", case).status == 0, "with the right password it goes on"
    assert len(installation.requests("login")) == 2


def test_the_doctor_tries_a_refused_login_again_when_told_to(installation: Installation) -> None:
    installation.run("migrate")
    installation.fault("openspecimen", "refuse", call="login", code="AUTH_USER_LOCKED", status=400, nth=1)
    assert installation.run("doctor").status == 1
    assert installation.run("doctor").status == 1
    assert len(installation.requests("login")) == 1
    assert installation.run("doctor", "--try-login-again").status == 0
    assert installation.run("subject", installation.request()).status == 0


def test_a_wrong_client_secret_is_tried_once_until_it_changes(installation: Installation) -> None:
    file = installation.request()
    wrong = dict(variables(clinical_one_client_secret="wrong"))
    for _ in range(3):
        ran = installation.run("subject", file, variables=wrong)
        assert ran.status == 3
        assert "INVALID_CLIENT" in ran.out
        assert "ONBOARDING_CLINICAL_ONE_CLIENT_ID or _CLIENT_SECRET" in ran.out
    assert len(installation.requests("token")) == 1
    assert installation.run("subject", file).status == 0


@pytest.mark.parametrize("command", ["subject", "resume", "status", "show", "migrate"])
def test_a_missing_or_wrong_key_is_refused_before_anything_is_sent(installation: Installation, command: str) -> None:
    file = installation.request()
    installation.run("subject", file)
    case = installation.case()["case"]
    words = {"subject": (file,), "resume": (case,), "show": (case,)}.get(command, ())
    installation.control.reset()
    other = installation.run(command, *words, variables=dict(variables(ledger_key=LedgerKey.new_text())))
    assert other.status == 1
    assert "ONBOARDING_LEDGER_KEY" in other.said[0]
    key_file = installation.ledger_file.with_name("ledger.db.key")
    key = key_file.read_text()
    key_file.unlink()
    missing = installation.run(command, *words)
    assert missing.status == 1
    assert "ONBOARDING_LEDGER_KEY" in missing.said[0]
    assert str(key_file) in missing.said[0]
    assert not key_file.exists(), "no other key is made for a ledger that stands"
    key_file.write_text("nonsense")
    assert installation.run(command, *words).status == 2
    assert installation.requests() == []
    assert installation.run("status", variables=dict(variables(ledger_key=key.strip()))).status == 0


@pytest.mark.parametrize("options", [("subject",), ("subject", "--dry-run"), ("batch",), ("batch", "--dry-run")])
def test_that_a_new_ledger_was_made_is_said_since_its_address_may_be_wrong(
    installation: Installation, options: tuple[str, ...]
) -> None:
    """Another ledger can know that the same subjects are onboarded."""
    file = installation.request() if options[0] == "subject" else str(many(installation, 1, exception_row))
    made = f"there was no ledger at sqlite:///{installation.ledger_file}; a new, empty one was made there."
    assert installation.run(*options, file).said[0] == made
    assert made not in installation.run(*options, file).said


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:////proc/1/nowhere/ledger.db", "cannot be used"),
        ("sqlite:////", "cannot be used"),
        ("sqlite:///{folder}/no-database", "cannot be used"),
        ("sqlite:///{folder}/no-database/ledger.db", "cannot be used"),
        ("postgresql://user:hunter2@127.0.0.1:{port}/x?password=hunter2", "cannot be used"),
    ],
)
def test_a_ledger_that_cannot_be_used_is_named_without_its_password(
    installation: Installation, url: str, says: str
) -> None:
    (installation.folder / "no-database").write_text("x" * 5000)
    settings = variables(
        ledger_url=url.format(folder=installation.folder, port=free_port()), ledger_key=LedgerKey.new_text()
    )
    for words in (("subject", installation.request()), ("status",), ("migrate",)):
        ran = installation.run(*words, variables=dict(settings))
        assert ran.status == 1
        (line,) = ran.said
        assert "ledger" in line
        assert says in line or "there is no ledger" in line
        assert "hunter2" not in line
    assert installation.requests() == []


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "ftp://127.0.0.1/api",
        "http://",
        "http://127.0.0.1:port/api",
        "http://[::1/api",
        "http://a..b/api",
        "http://127.0.0.1:1/\x01",
        f"http://{'a' * 70}/api",
        "http://xn--zzzz/api",
    ],
)
def test_a_prefect_api_that_cannot_be_is_as_none(installation: Installation, url: str) -> None:
    ran = installation.run("doctor", variables={"PREFECT_API_URL": url})
    assert (ran.status, ran.err) == (0, "")
    assert "Prefect API: none answers" in ran.out


def test_the_doctor_notes_a_variable_that_looks_like_a_setting_and_is_none(installation: Installation) -> None:
    variables = {"ONBOARDING_REQUEST_PER_SECOND": "2", "ONBOARDING_SERVICE_HOST": "10.0.0.7"}
    ran = installation.run("doctor", variables=variables)
    assert (ran.status, ran.err) == (0, "")
    notes = [line for line in ran.out.splitlines() if "is no setting" in line]
    assert [note.split(maxsplit=1) for note in notes] == [
        [
            "note",
            "ONBOARDING_REQUEST_PER_SECOND: is no setting, so nothing reads it; did you mean ONBOARDING_REQUESTS_PER_SECOND?",
        ],
        ["note", "ONBOARDING_SERVICE_HOST: is no setting, so nothing reads it."],
    ]
    assert "10.0.0.7" not in ran.out


@pytest.mark.parametrize(
    "profiles",
    [
        "active = 5",
        "profiles = 3",
        "active = 'x'\n[profiles]\nx = 3",
        "active=['x']",
        "a b",
        "active='x'\n[profiles.x]\nPREFECT_API_URL=3",
    ],
)
def test_prefect_profiles_that_cannot_be_are_as_none(installation: Installation, profiles: str, tmp_path: Path) -> None:
    (tmp_path / "profiles.toml").write_text(profiles)
    ran = installation.run("doctor", variables={"PREFECT_HOME": str(tmp_path)})
    assert (ran.status, ran.err) == (0, "")
