"""Prefect's first run in a process sets much up; here that is done before the measured part, in Prefect's favour."""

from prefect import flow


@flow(name="benchmark-warm-up")
async def warm_up() -> None:
    """Nothing."""
