"""The connection to OpenSpecimen as a block."""

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from onboarding.settings import OpenSpecimenConnection


class OpenSpecimen(Block):
    """Where OpenSpecimen is and who logs in there.

    Example:
        Load the connection that the flows use:

        ```python
        from blocks import OpenSpecimen

        connection = await OpenSpecimen.aload("default")
        ```
    """

    _block_type_name: ClassVar[str] = "OpenSpecimen"
    _block_type_slug: ClassVar[str] = "open-specimen"
    _description: ClassVar[str] = (
        "Log-in to OpenSpecimen for updating registrations. The flows use the block named default."
    )

    url: str = Field(
        min_length=1,
        title="Address",
        description="Up to the application name. Example: https://openspecimen.example.org:8443/openspecimen",
    )
    username: str = Field(
        min_length=1, title="Log-in name", description="Needs the right to update registrations. Example: onboarding"
    )
    password: SecretStr = Field(min_length=1, title="Password", description="Stored encrypted, shown as stars.")
    domain: str = Field(
        min_length=1, default="openspecimen", title="Log-in domain", description="Example: openspecimen"
    )
    time_zone: str = Field(
        min_length=1,
        default="UTC",
        title="Time zone of the server",
        description="Dates are days in this zone. Example: Europe/Berlin",
    )

    def connection(self) -> OpenSpecimenConnection:
        """The connection as the core takes it."""
        return OpenSpecimenConnection(
            url=self.url.rstrip("/"),
            username=self.username,
            password=self.password,
            domain=self.domain,
            time_zone=self.time_zone,
        )
