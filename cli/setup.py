"""`onboard setup`: what an installation needs, made once and brought up to date by the same command again."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Final

from cyclopts import Parameter

from cli import doors, present
from cli.settings_file import write_settings
from cli.told import Outcome, Told
from onboarding.endings import EXIT_ONBOARDED
from onboarding.errors import BadSettings
from onboarding.settings import Connections, load_connections

Flag = Annotated[bool, Parameter(negative="")]
_STYLES: Final = {Outcome.CREATED: "green", Outcome.CHANGED: "yellow", Outcome.LEFT: "dim", Outcome.MISSING: "bold red"}
_API_LOOKS: Final = 5
_NO_API: Final = (
    "there is no Prefect API that answers. 'onboard up' runs everything on this machine, with nothing to set up. For a server "
    "of your own: start it (prefect server start), export PREFECT_API_URL=http://HOST:4200/api, and run 'onboard setup' again."
)


def setup(*, json: Flag = False) -> int:
    """Set this installation up: settings file, and on the Prefect server blocks, work pool, automations and deployments.

    What the environment names is kept: settings in the settings file, vendor connections in encrypted blocks. The ledger's key
    is never written. The same command again changes what differs and leaves the rest.

    Args:
        json: print JSON lines.
    """
    return asyncio.run(_setup(json=json))


async def _setup(*, json: bool) -> int:
    settings, told = write_settings()
    found = load_connections(settings)
    _say(told, json=json)
    if settings.ledger_key is not None:
        _say(Told("ledger key", Outcome.LEFT, "in the environment, and nowhere else: every worker needs it"), json=json)
    await _find_api()
    with doors.prefect_said_plainly():
        async for one in _on_the_server(found):
            _say(one, json=json)
    if not json:
        present.console().print(
            "Now start a worker, here or on several machines: prefect worker start --pool onboarding", soft_wrap=True
        )
    return EXIT_ONBOARDED


async def _find_api() -> None:
    for _ in range(_API_LOOKS):
        if await asyncio.to_thread(doors.prefect_api) is not None:
            return
    raise BadSettings([f"PREFECT_API_URL: {_NO_API}"])


async def _on_the_server(found: Connections) -> AsyncIterator[Told]:
    from prefect.client.orchestration import get_client

    from cli.automations import set_up_automations
    from cli.deployments import apply, wanted_deployments
    from cli.pool_and_blocks import make_pool, register_types, save_blocks

    wanted = wanted_deployments()
    async with get_client() as client:
        for told in [*await register_types(client), *await save_blocks(found)]:
            yield told
        for pool in sorted({one.pool for one in wanted}):
            yield await make_pool(client, pool)
        for one in wanted:
            outcome, differing = await apply(client, one)
            limit = f"{one.limit} at a time"
            every = "".join(f", every {seconds:g} s" for seconds in one.intervals_s)
            yield Told(f"deployment {one.name}", outcome, differing or f"{limit}{every}")
        for told in await set_up_automations(client, [one.flow.name for one in wanted]):
            yield told


def _say(told: Told, *, json: bool) -> None:
    if json:
        present.print_json({"thing": told.thing, "outcome": told.outcome.value, "what": told.what or None})
        return
    out = present.console()
    out.print(f"{told.outcome.value:<8}", end="", style=_STYLES[told.outcome])
    out.print(told.thing + (f": {told.what}" if told.what else ""), soft_wrap=True)
