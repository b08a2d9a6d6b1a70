"""The connection to Oracle Clinical One as a block."""

from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from onboarding.settings import ClinicalOneConnection


class ClinicalOne(Block):
    """Where the Clinical One tenant and its token service are, and the OAuth client that speaks to them.

    Example:
        Load the connection that the flows use:

        ```python
        from blocks import ClinicalOne

        connection = await ClinicalOne.aload("default")
        ```
    """

    _block_type_name: ClassVar[str] = "Clinical One"
    _block_type_slug: ClassVar[str] = "clinical-one"
    _description: ClassVar[str] = "OAuth client for Oracle Clinical One. The flows use the block named default."

    url: str = Field(
        min_length=1, title="Tenant address", description="Example: https://tenant.clinicalone.oraclecloud.com"
    )
    token_url: str = Field(
        min_length=1, title="Token address", description="Full address of the token service, on its own host."
    )
    client_id: str = Field(
        min_length=1, title="Client id", description="Of the OAuth client. Example: onboarding-client"
    )
    client_secret: SecretStr = Field(
        min_length=1, title="Client secret", description="Stored encrypted, shown as stars."
    )
    scope: str = Field(min_length=1, title="Scope", description="Separated by spaces. Example: tenant.ec-ors-svc.all")
    dnd_path: str = Field(
        min_length=1,
        default="dndexception",
        title="DND path",
        description="Path segment of the DND exceptions. Example: dndexception",
    )

    def connection(self) -> ClinicalOneConnection:
        """The connection as the core takes it."""
        return ClinicalOneConnection(
            url=self.url.rstrip("/"),
            token_url=self.token_url.rstrip("/"),
            client_id=self.client_id,
            client_secret=self.client_secret,
            scope=self.scope,
            dnd_path=self.dnd_path,
        )
