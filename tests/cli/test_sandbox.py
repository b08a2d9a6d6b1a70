"""`onboard sandbox`: whatever signal ends it, nothing of it goes on."""

import json
import signal
from collections.abc import Sequence

import httpx
import pytest

from cli.local import port_problem
from tests.support.installation import IGNORING_SIGINT, Installation


@pytest.mark.parametrize("under", [(), IGNORING_SIGINT], ids=["terminal", "background-of-a-script"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_command_alone_ends_the_stand_ins_and_frees_their_ports(
    installation: Installation, number: signal.Signals, under: Sequence[str]
) -> None:
    with installation.started("sandbox", under=under) as process:
        assert process.stdout is not None
        addresses = json.loads(process.stdout.readline())
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    ports = {httpx.URL(address).port for address in addresses.values()}
    assert len(ports) == 4
    assert [port for port in ports if port is None or port_problem(port)] == []


def test_what_keeps_the_stand_ins_from_starting_is_its_exit_status(installation: Installation) -> None:
    ran = installation.run("sandbox", "--time-zone", "Nowhere/Land")
    assert ran.status == 2
    assert ran.err.startswith("vendor_sandbox: ")
