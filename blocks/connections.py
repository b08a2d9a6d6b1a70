"""Where the flows get their vendor connections from: the environment, else the blocks named ``default``."""

from blocks.clinical_one import ClinicalOne
from blocks.open_specimen import OpenSpecimen
from onboarding.errors import BadSettings
from onboarding.settings import Connections, Settings, connection_problems, load_connections


async def connections_for_flows(settings: Settings) -> Connections:
    """Both connections; one is None if neither the environment nor a block names it. Raises ``BadSettings``."""
    found = load_connections(settings)
    openspecimen, clinical_one = found.openspecimen, found.clinical_one
    problems: list[str] = []
    if openspecimen is None and (block := await _openspecimen_block()) is not None:
        openspecimen = block.connection()
        problems += connection_problems(openspecimen, settings, prefix="block open-specimen/default, ")
    if clinical_one is None and (other := await _clinical_one_block()) is not None:
        clinical_one = other.connection()
        problems += connection_problems(clinical_one, settings, prefix="block clinical-one/default, ")
    if problems:
        raise BadSettings(problems)
    return Connections(openspecimen=openspecimen, clinical_one=clinical_one)


async def _openspecimen_block() -> OpenSpecimen | None:
    try:
        return await OpenSpecimen.aload("default")
    except ValueError:  # Prefect's word for "there is no such block"
        return None


async def _clinical_one_block() -> ClinicalOne | None:
    try:
        return await ClinicalOne.aload("default")
    except ValueError:
        return None
