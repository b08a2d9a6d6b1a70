"""`onboard up` where it does not start: what is in the way is said, with the way out."""

import fcntl
import socket

from cli.up_folder import up_folder
from tests.support.installation import Installation, variables, without
from tests.support.processes import free_port

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
    assert f"--port: {port} is in use" in line
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
