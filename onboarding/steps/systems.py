"""Both vendors' clients together, with the addresses that bind a case to them."""

from dataclasses import dataclass

from onboarding.errors import OPENSPECIMEN
from onboarding.ledger.opening import Addresses
from onboarding.vendors.clinical_one import ClinicalOneClient
from onboarding.vendors.openspecimen import OpenSpecimenClient


@dataclass(frozen=True)
class Systems:
    """The two systems a case is onboarded to."""

    openspecimen: OpenSpecimenClient
    clinical_one: ClinicalOneClient
    openspecimen_address: str
    clinical_one_address: str
    time_zone: str

    def login_digest(self, system: str) -> str:
        """Under which digest a refused log-in to this system is remembered."""
        client = self.openspecimen if system == OPENSPECIMEN else self.clinical_one
        return client.credentials_digest

    @property
    def login_digests(self) -> list[str]:
        """The digests of both connections as they are set now."""
        return [self.openspecimen.credentials_digest, self.clinical_one.credentials_digest]

    @property
    def addresses(self) -> Addresses:
        """What a case remembers of them."""
        return Addresses(self.openspecimen_address, self.clinical_one_address)
