"""This project's own HTTP stack without its ledger: both clients over one ``VendorHttp``, nothing stored."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from pydantic import SecretStr

from benchmarks.subjects import MODE
from onboarding.clocks import utc_now
from onboarding.intake import IntakeRequest
from onboarding.settings import ClinicalOneConnection, OpenSpecimenConnection
from onboarding.vendors.clinical_one import ClinicalOneClient
from onboarding.vendors.gate import InMemoryGate
from onboarding.vendors.openspecimen import OpenSpecimenClient
from onboarding.vendors.transport import VendorHttp
from onboarding.vendors.wire import Deadline
from vendor_sandbox import seed

_TIMEOUT_S: Final = 30.0


class Stack:
    """The calls of one onboarding, grouped as the four steps."""

    def __init__(self, openspecimen: OpenSpecimenClient, clinical_one: ClinicalOneClient) -> None:
        self._openspecimen = openspecimen
        self._clinical_one = clinical_one
        self._exception = asyncio.Lock()
        self._exception_id: str | None = None

    async def registration(self, request: IntakeRequest) -> None:
        """Read, then update."""
        section = request.registration
        assert section is not None
        await self._openspecimen.read_registration(section.id, deadline=Deadline(_TIMEOUT_S))
        await self._openspecimen.update_registration(section.id, section.body(), deadline=Deadline(_TIMEOUT_S))

    async def dispensation(self, request: IntakeRequest) -> None:
        """Who holds the kit, and at which visit it was dispensed."""
        device, subject = request.device, request.subject
        assert device is not None
        kit = await self._clinical_one.dispensation(
            subject.study_id, MODE, device.inventory_id, deadline=Deadline(_TIMEOUT_S)
        )
        assert kit is not None
        assert kit.visit_id is not None
        await self._clinical_one.dispensation_history(
            subject.study_id, MODE, subject.subject_id, kit.visit_id, as_of=utc_now(), deadline=Deadline(_TIMEOUT_S)
        )

    async def device(self, request: IntakeRequest) -> None:
        """Register it."""
        device, subject = request.device, request.subject
        assert device is not None
        await self._clinical_one.register_device(
            subject.study_id, MODE, subject.subject_id, device.body(), deadline=Deadline(_TIMEOUT_S)
        )

    async def exception(self, request: IntakeRequest) -> None:
        """List once, create once: all subjects of the site share it."""
        async with self._exception:
            if self._exception_id is None:
                section, study_id = request.dnd_exception, request.subject.study_id
                assert section is not None
                await self._clinical_one.list_exceptions(study_id, MODE, deadline=Deadline(_TIMEOUT_S))
                self._exception_id = await self._clinical_one.create_exception(
                    study_id, MODE, section.body(), deadline=Deadline(_TIMEOUT_S)
                )

    async def onboard(self, request: IntakeRequest) -> None:
        """All four, in order."""
        await self.registration(request)
        await self.dispensation(request)
        await self.device(request)
        await self.exception(request)


def connections(addresses: Mapping[str, str]) -> tuple[OpenSpecimenConnection, ClinicalOneConnection]:
    """Both vendors' connections to the sandbox."""
    return (
        OpenSpecimenConnection(
            url=addresses["openspecimen_url"], username=seed.USERNAME, password=SecretStr(seed.PASSWORD)
        ),
        ClinicalOneConnection(
            url=addresses["clinical_one_url"],
            token_url=addresses["token_url"],
            client_id=seed.CLIENT_ID,
            client_secret=SecretStr(seed.CLIENT_SECRET),
            scope=seed.SCOPE,
        ),
    )


@asynccontextmanager
async def opened_stack(addresses: Mapping[str, str]) -> AsyncIterator[Stack]:
    """A stack that is closed at the end."""
    to_openspecimen, to_clinical_one = connections(addresses)
    gate = InMemoryGate()
    async with VendorHttp() as http:
        openspecimen = OpenSpecimenClient(to_openspecimen, http, gate)
        clinical_one = ClinicalOneClient(to_clinical_one, http, gate)
        try:
            yield Stack(openspecimen, clinical_one)
        finally:
            await openspecimen.aclose()
            await clinical_one.aclose()
