"""A sandbox and a process to fork commands from, for the whole session; an installation for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installation import Installation, WarmCommands, sandbox_process, warm_commands
from vendor_sandbox import SandboxControl


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmCommands]:
    with warm_commands(tmp_path_factory.mktemp("commands")) as running:
        yield running


@pytest.fixture(scope="session")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with sandbox_process(tmp_path_factory.mktemp("sandbox")) as found:
        yield found


@pytest.fixture
def installation(tmp_path: Path, addresses: dict[str, str], commands: WarmCommands) -> Installation:
    """An installation with nothing in it yet, and a sandbox as good as new."""
    SandboxControl(addresses["control_url"]).reset()
    return Installation(tmp_path, addresses, commands)
