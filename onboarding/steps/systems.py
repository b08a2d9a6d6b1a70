"""Both vendors' clients together, with the addresses that bind a case to them."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from onboarding.errors import OPENSPECIMEN
from onboarding.ledger.opening import Addresses
from onboarding.steps.turns import Turns
from onboarding.vendors.clinical_one import ClinicalOneClient
from onboarding.vendors.limits import Turn
from onboarding.vendors.openspecimen import OpenSpecimenClient


@dataclass(frozen=True)
class Systems:
    """The two systems a case is onboarded to."""

    openspecimen: OpenSpecimenClient
    clinical_one: ClinicalOneClient
    openspecimen_address: str
    clinical_one_address: str
    time_zone: str
    exception_turns: Turns = field(default_factory=Turns)

    def client(self, system: str) -> OpenSpecimenClient | ClinicalOneClient:
        """The client of one system."""
        return self.openspecimen if system == OPENSPECIMEN else self.clinical_one

    def login_digest(self, system: str) -> str:
        """Under which digest a refused log-in to this system is remembered."""
        return self.client(system).credentials_digest

    def turn(self, system: str, seconds: float) -> AbstractAsyncContextManager[Turn]:
        """Wait for the place of one effect; its deadline, of so many seconds, begins when it has it.

        Raises:
            Unavailable: a long pause is under way, or the system looks dead; nothing was sent.
        """
        return self.client(system).turn(seconds)

    def closed_for_s(self, system: str) -> float:
        """Seconds for which nothing will be sent there: a pause it asked for, or it looks dead; 0 if it may be used."""
        return self.client(system).closed_for_s()

    @property
    def login_digests(self) -> list[str]:
        """The digests of both connections as they are set now."""
        return [self.openspecimen.credentials_digest, self.clinical_one.credentials_digest]

    @property
    def addresses(self) -> Addresses:
        """What a case remembers of them."""
        return Addresses(self.openspecimen_address, self.clinical_one_address)
