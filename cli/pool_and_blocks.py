"""The work pool, and the vendor connections as blocks. Secrets go to the server, which encrypts them, and are never shown."""

from typing import Final

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectNotFound
from pydantic import BaseModel, ValidationError

from blocks import ClinicalOne, OpenSpecimen
from cli.told import Outcome, Told
from onboarding.settings import Connections

NAME: Final = "default"


async def make_pool(client: PrefectClient, name: str) -> Told:
    """A pool of processes, unless there is one of this name; its type is its owner's business."""
    try:
        stands = await client.read_work_pool(name)
    except ObjectNotFound:
        await client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        return Told(f"work pool {name}", Outcome.CREATED, "of type process")
    return Told(f"work pool {name}", Outcome.LEFT, f"of type {stands.type}")


async def register_types(client: PrefectClient) -> list[Told]:
    """Register the block types, so that the page has their forms."""
    return [await _register(client, kind) for kind in (OpenSpecimen, ClinicalOne)]


async def save_blocks(found: Connections) -> list[Told]:
    """Keep the connections that the environment names in the blocks named ``default``."""
    return [await _save(OpenSpecimen, found.openspecimen), await _save(ClinicalOne, found.clinical_one)]


async def _register(client: PrefectClient, kind: type[Block]) -> Told:
    slug = kind.get_block_type_slug()
    try:
        await client.read_block_type_by_slug(slug)
        outcome = Outcome.LEFT
    except ObjectNotFound:
        outcome = Outcome.CREATED
    await kind.register_type_and_schema()
    return Told(f"block type {slug}", outcome)


async def _save(kind: type[Block], connection: BaseModel | None) -> Told:
    """Save a connection; one that the environment does not name is left as it was filled in on the page."""
    place = f"{kind.get_block_type_slug()}/{NAME}"
    stands = await _saved(kind)
    if connection is None:
        if stands is not None:
            return Told(f"block {place}", Outcome.LEFT, "the environment does not name this connection")
        prefix = "ONBOARDING_OPENSPECIMEN_" if kind is OpenSpecimen else "ONBOARDING_CLINICAL_ONE_"
        return Told(f"block {place}", Outcome.MISSING, f"set {prefix}... and run this again, or fill it in on the page")
    block = kind(**dict(connection))
    if stands is None:
        outcome, what = Outcome.CREATED, ""
    else:
        fields = type(connection).model_fields
        changes = [name for name in fields if getattr(stands, name, None) != getattr(block, name)]
        outcome, what = (Outcome.CHANGED, ", ".join(changes)) if changes else (Outcome.LEFT, "")
    if outcome is not Outcome.LEFT:
        await block.asave(NAME, overwrite=True)
    return Told(f"block {place}", outcome, what)


async def _saved(kind: type[Block]) -> Block | None:
    try:
        found: Block = await kind.aload(NAME)
    except ValueError:  # Prefect's word for "there is no such block"
        return None
    except (RuntimeError, ValidationError):  # it was saved on the page with something missing
        return kind.model_construct()
    return found
