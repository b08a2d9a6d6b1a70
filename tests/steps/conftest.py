"""A laboratory for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.steps.lab import Lab, laboratory


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """The core against the sandbox, with the default seed."""
    async with laboratory(tmp_path) as running:
        yield running
