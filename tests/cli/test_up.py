"""`onboard up` where it does not start: what is in the way is said, with the way out. And what it leaves for other terminals."""

import fcntl
import shlex
import signal
import socket
import stat
import subprocess
import sysconfig

from cli.local import free_port, sandbox_settings
from cli.up_folder import secret_names, up_folder
from onboarding.keys import LedgerKey
from tests.support.installation import Installation, variables, without

NO_VENDORS = without(
    *(f"openspecimen_{name}" for name in ("url", "username", "password")),
    *(f"clinical_one_{name}" for name in ("url", "token_url", "client_id", "client_secret", "scope")),
)


def test_a_port_in_use_is_said_with_the_way_out(installation: Installation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = installation.run("up", "--port", str(port), "--folder", "up", variables=NO_VENDORS)
    assert ran.status == 2
    (line,) = ran.said
    assert line.startswith(f"--port: {port} is in use or cannot be used (address already in use); try: ")
    assert "onboard up --port " in line
    assert not list((installation.folder / "up").glob("*.log")), "nothing was started"


def test_a_folder_in_use_is_said_with_the_way_out(installation: Installation) -> None:
    folder = installation.folder / "up"
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        lock.write("4711\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = installation.run("up", "--port", str(free_port()), "--folder", "up", variables=NO_VENDORS)
    assert ran.status == 2
    assert "process 4711" in ran.said[0]
    assert "--folder OTHER" in ran.said[0]


def test_a_folder_that_cannot_be_made_is_named(installation: Installation) -> None:
    (installation.folder / "file").touch()
    ran = installation.run("up", "--folder", "file", variables=NO_VENDORS)
    assert ran.status == 2
    assert ran.said[0].startswith("--folder: ")


def test_one_vendor_alone_is_refused(installation: Installation) -> None:
    """Else a real registration would be updated, and its device registered with a stand-in."""
    half = {name: value for name, value in NO_VENDORS.items() if "CLINICAL" in name}
    ran = installation.run("up", "--port", str(free_port()), "--folder", "up", variables=half)
    assert ran.status == 2
    assert ran.said == [
        "ONBOARDING_CLINICAL_ONE_...: is not set, but the other vendor's connection is; set both, or none for the stand-ins."
    ]


def test_a_port_of_a_stand_in_that_is_in_use_is_said(installation: Installation) -> None:
    with up_folder(installation.folder / "up") as kept:
        ports = kept.sandbox_ports()
        assert kept.sandbox_ports() == ports, "cases keep to the addresses that they were opened for"
    assert len(set(ports.values())) == 4
    with socket.create_server(("127.0.0.1", ports["token"])):
        ran = installation.run("up", "--port", str(free_port()), "--folder", "up", variables=NO_VENDORS)
    assert ran.status == 2
    assert f"port {ports['token']}, of the stand-in token" in ran.said[0]
    assert not list((installation.folder / "up").glob("*.log")), "nothing was started"


def test_bad_settings_are_said_before_anything_is_started(installation: Installation) -> None:
    ran = installation.run("up", "--folder", "up", variables=dict(variables(max_sends=0)))
    assert ran.status == 2
    assert ran.said[0].startswith("ONBOARDING_MAX_SENDS: ")
    assert [path.name for path in (installation.folder / "up").iterdir()] == ["lock"]


def test_a_secret_is_not_written_into_the_folder(installation: Installation) -> None:
    addresses = dict.fromkeys(("openspecimen_url", "clinical_one_url", "token_url"), "https://vendor.example.org")
    named = {
        **sandbox_settings(addresses),
        "ONBOARDING_LEDGER_KEY": "secret-1",
        "ONBOARDING_OPENSPECIMEN_PASSWORD": "secret-2",
        "ONBOARDING_CLINICAL_ONE_CLIENT_SECRET": "secret-3",
        "ONBOARDING_OF_A_LATER_VERSION": "secret-4",
        "ONBOARDING_LEDGER_URL": "postgresql+psycopg://db.example.org/onboarding?user=u&password=secret-5",
        "ONBOARDING_CONCURRENCY": "7",
        "PREFECT_API_URL": "http://127.0.0.1:4200/api",
        "PGPASSWORD": "secret-6",
        "PGHOST": "db.example.org",
    }
    (installation.folder / "environment").write_text("export ONBOARDING_LEDGER_KEY=secret-0\n")
    (installation.folder / "environment").chmod(0o644)
    secrets = secret_names(named)
    with up_folder(installation.folder) as kept:
        file = kept.write_environment(named, secrets)
    text = file.read_text("utf-8")
    assert "secret-" not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secrets == sorted(name for name, value in named.items() if "secret-" in value)
    for name in secrets:
        assert f"set in this terminal: {name}\n" in text, "else nobody knows what is left to do"
    for name in named.keys() - secrets:
        assert f"export {name}=" in text


def test_commands_in_another_terminal_do_not_take_another_ledger_for_that_whose_address_is_secret(
    installation: Installation,
) -> None:
    url = "ONBOARDING_LEDGER_URL"
    with up_folder(installation.folder) as kept:
        file = kept.write_environment({url: "postgresql+psycopg://u:secret@db.example.org/o"}, [url])
    sourced = ["/bin/sh", "-c", f". {file}; echo went on"]
    unset = subprocess.run(sourced, env={}, capture_output=True, text=True, check=False)
    assert (unset.returncode != 0, unset.stdout) == (True, "")
    assert f"{url}: holds a password" in unset.stderr
    assert subprocess.run(sourced, env={url: "set"}, capture_output=True, text=True, check=True).stdout == "went on\n"


def test_the_ledger_can_be_looked_at_before_anything_else_is_there(installation: Installation) -> None:
    words = ("up", "--port", str(free_port()), "--folder", "up")
    with installation.started(*words, variables=NO_VENDORS) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Starting ")
        ledger = variables(ledger_url=f"sqlite:///{installation.folder / 'up' / 'ledger.db'}")
        looked = installation.run("status", "--json", variables=dict(ledger))
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert (looked.status, looked.out, looked.err) == (0, "", "")


def test_a_ledger_that_cannot_be_used_is_said_before_anything_is_started(installation: Installation) -> None:
    assert installation.run("migrate").status == 0
    other = dict(variables(ledger_key=LedgerKey.new_text()))
    with installation.started("up", "--port", str(free_port()), "--folder", "up", variables=other) as process:
        assert process.stdout is not None
        if began := process.stdout.readline():
            process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, began) == (1, "")
    assert err.startswith("onboard: the key does not belong to the ledger ")
    assert not list((installation.folder / "up").glob("*.log")), "nothing was started"


def test_commands_are_found_in_a_terminal_that_does_not_know_where_they_are(installation: Installation) -> None:
    with up_folder(installation.folder / "with a blank") as kept:
        file = kept.write_environment({})
    sourced = f". {shlex.quote(str(file))}; . {shlex.quote(str(file))}; command -v onboard; echo $PATH"
    done = subprocess.run(
        ["/bin/sh", "-c", sourced], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    commands = sysconfig.get_path("scripts")
    assert done.stdout.splitlines() == [f"{commands}/onboard", f"{commands}:/usr/bin:/bin"]


def test_the_address_of_a_ledger_is_no_secret_without_a_password() -> None:
    assert (
        secret_names({"ONBOARDING_LEDGER_URL": "postgresql+psycopg://u@db.example.org/onboarding?sslmode=require"})
        == []
    )
    assert secret_names({"ONBOARDING_LEDGER_URL": "postgresql+psycopg://u:p@db.example.org/onboarding"}) != []
