"""Where the flows get their vendor connections from: the environment, else the blocks named ``default``."""

from typing import Final, TypeVar

from prefect.blocks.core import Block
from pydantic import BaseModel, ValidationError

from blocks.clinical_one import ClinicalOne
from blocks.open_specimen import OpenSpecimen
from onboarding.errors import BadSettings
from onboarding.settings import Connections, Settings, connection_problems, load_connections

B = TypeVar("B", bound=Block)
NAME: Final = "default"


async def connections_for_flows(settings: Settings) -> Connections:
    """Both connections; one is None if neither the environment nor a block names it. Raises ``BadSettings``."""
    found = load_connections(settings)
    problems: list[str] = []
    openspecimen, clinical_one = found.openspecimen, found.clinical_one
    if openspecimen is None and (block := await _saved(OpenSpecimen, problems)) is not None:
        openspecimen = block.connection()
        problems += _problems(block, openspecimen, settings)
    if clinical_one is None and (other := await _saved(ClinicalOne, problems)) is not None:
        clinical_one = other.connection()
        problems += _problems(other, clinical_one, settings)
    if problems:
        raise BadSettings(problems)
    return Connections(openspecimen=openspecimen, clinical_one=clinical_one)


async def _saved(kind: type[B], problems: list[str]) -> B | None:
    """The saved block, or None if there is none; what is wrong with one that cannot be used is added to ``problems``."""
    try:
        return await kind.aload(NAME)
    except ValueError:  # Prefect's word for "there is no such block"
        return None
    except RuntimeError as error:  # the page saves what a form holds, without asking the class
        wrong = error.__cause__.errors() if isinstance(error.__cause__, ValidationError) else []
        names = dict.fromkeys(str(detail["loc"][0]) for detail in wrong if detail["loc"])
        problems += [f"{_place(kind)}{name}: is missing or empty; save the block again with it." for name in names] or [
            f"{_place(kind)}cannot be loaded by this version; save the block again."
        ]
        return None


def _problems(block: Block, connection: BaseModel, settings: Settings) -> list[str]:
    return connection_problems(connection, settings, prefix=_place(type(block)))


def _place(kind: type[Block]) -> str:
    return f"block {kind.get_block_type_slug()}/{NAME}, "
