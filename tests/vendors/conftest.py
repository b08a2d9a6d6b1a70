"""Fixtures of the vendor tests."""

from collections.abc import AsyncIterator

import pytest

from onboarding.vendors import VendorHttp


@pytest.fixture
async def http() -> AsyncIterator[VendorHttp]:
    async with VendorHttp() as sender:
        yield sender
