"""The vendor connections as blocks: registered, saved and loaded, and used where the environment names none."""

import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prefect import get_client
from prefect.blocks.core import Block
from prefect.client.schemas.actions import BlockDocumentCreate

from blocks import ClinicalOne, OpenSpecimen, connections_for_flows
from onboarding.errors import BadSettings
from onboarding.settings import CONNECTION_VARIABLES, Connections, load_settings
from tests.flows.lab import FlowLab, clinical_one_block, openspecimen_block
from tests.steps.lab import only
from tests.support.prefect_server import PrefectServer
from vendor_sandbox import seed

pytestmark = pytest.mark.prefect
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def blocks(lab: FlowLab, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FlowLab]:
    """A laboratory whose environment names no vendor; blocks that a test saves are gone afterwards."""
    for system, variables in CONNECTION_VARIABLES.items():
        for name in variables:
            monkeypatch.delenv(f"ONBOARDING_{system}_{name}".upper(), raising=False)
    yield lab
    async with get_client() as client:
        for document in await client.read_block_documents():
            if document.name == "default":
                await client.delete_block_document(document.id)


async def found(lab: FlowLab) -> Connections:
    return await connections_for_flows(load_settings())


async def problems(lab: FlowLab) -> list[str]:
    with pytest.raises(BadSettings) as refused:
        await found(lab)
    return refused.value.problems


async def test_a_flow_onboards_with_the_connections_of_the_blocks(blocks: FlowLab) -> None:
    await openspecimen_block(blocks).save("default")
    await clinical_one_block(blocks).save("default")
    ran = await blocks.flow(request=only("registration", "dnd_exception"))
    assert ran.how == ("COMPLETED", "Onboarded")


async def test_without_environment_and_blocks_a_run_fails_and_names_both(blocks: FlowLab) -> None:
    ran = await blocks.flow(request=only("registration"))
    assert ran.how == ("FAILED", "Failed")
    assert "ONBOARDING_OPENSPECIMEN_URL" in ran.message
    assert "open-specimen/default" in ran.message
    assert "ONBOARDING_CLINICAL_ONE_URL" in ran.message
    assert "clinical-one/default" in ran.message
    assert blocks.calls() == []


async def test_the_environment_goes_before_the_block(blocks: FlowLab, monkeypatch: pytest.MonkeyPatch) -> None:
    await openspecimen_block(blocks, username="from the block").save("default")
    await clinical_one_block(blocks).save("default")
    for name in ("url", "username", "password"):
        variable = f"ONBOARDING_OPENSPECIMEN_{name.upper()}"
        monkeypatch.setenv(variable, blocks.environment[variable])
    connections = await found(blocks)
    assert connections.openspecimen is not None
    assert connections.openspecimen.username == seed.USERNAME
    assert connections.clinical_one is not None
    assert connections.clinical_one.client_id == seed.CLIENT_ID


async def test_a_connection_is_never_put_together_from_environment_and_block(
    blocks: FlowLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password of one account must not meet the name of another."""
    await openspecimen_block(blocks).save("default")
    monkeypatch.setenv("ONBOARDING_OPENSPECIMEN_PASSWORD", "another")
    assert [line.split(":")[0] for line in await problems(blocks)] == [
        "ONBOARDING_OPENSPECIMEN_URL",
        "ONBOARDING_OPENSPECIMEN_USERNAME",
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"url": "http://10.0.0.1/openspecimen"}, "url: is not on this machine"),
        ({"url": "openspecimen.example.org"}, "url: not a web address"),
        ({"time_zone": "Berlin"}, "time_zone: not a known time zone"),
    ],
)
async def test_a_wrong_field_of_a_block_is_named(blocks: FlowLab, changes: dict[str, str], problem: str) -> None:
    await openspecimen_block(blocks, **changes).save("default")
    (line,) = await problems(blocks)
    assert line.startswith(f"block open-specimen/default, {problem}")


async def test_a_slash_at_the_end_of_an_address_does_no_harm(blocks: FlowLab) -> None:
    await openspecimen_block(blocks, url=blocks.environment["ONBOARDING_OPENSPECIMEN_URL"] + "/").save("default")
    connections = await found(blocks)
    assert connections.openspecimen is not None
    assert connections.openspecimen.url == blocks.environment["ONBOARDING_OPENSPECIMEN_URL"]


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ({"url": "http://127.0.0.1:9", "username": "", "password": "secret-word"}, ["username"]),
        ({"url": "http://127.0.0.1:9", "username": "x", "password": ""}, ["password"]),
        ({"url": "http://127.0.0.1:9"}, ["username", "password"]),
    ],
)
async def test_what_a_block_saved_on_the_page_lacks_is_named(
    blocks: FlowLab, data: dict[str, str], names: list[str]
) -> None:
    await OpenSpecimen.register_type_and_schema()
    async with get_client() as client:
        kind = await client.read_block_type_by_slug("open-specimen")
        schema = await client.get_most_recent_block_schema_for_block_type(kind.id)
        assert schema is not None
        await client.create_block_document(
            BlockDocumentCreate(name="default", data=data, block_schema_id=schema.id, block_type_id=kind.id)
        )
    lines = await problems(blocks)
    assert [line.split(":")[0] for line in lines] == [f"block open-specimen/default, {name}" for name in names]
    assert "secret-word" not in "".join(lines)


async def test_secrets_of_blocks_are_encrypted_and_shown_as_stars(blocks: FlowLab) -> None:
    await openspecimen_block(blocks).save("default")
    await clinical_one_block(blocks).save("default")
    async with get_client() as client:
        for slug, name, secret in (
            ("open-specimen", "password", seed.PASSWORD),
            ("clinical-one", "client_secret", seed.CLIENT_SECRET),
        ):
            document = await client.read_block_document_by_name("default", slug, include_secrets=False)
            assert set(document.data[name]) == {"*"}
            assert secret not in str(document.data)
    stored = open_server_database(blocks.server)
    assert seed.PASSWORD not in stored
    assert seed.CLIENT_SECRET not in stored
    block: OpenSpecimen = await OpenSpecimen.aload("default")
    assert block.password.get_secret_value() == seed.PASSWORD
    assert seed.PASSWORD not in repr(block) + str(block)


def open_server_database(server: PrefectServer) -> str:
    (database,) = server.home.glob("*.db")
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return str(connection.execute("SELECT * FROM block_document").fetchall())
    finally:
        connection.close()


@pytest.mark.parametrize("kind", [OpenSpecimen, ClinicalOne])
def test_every_field_of_a_block_has_a_title_and_says_what_it_holds(kind: type[Block]) -> None:
    schema = kind.model_json_schema()
    for name, field in schema["properties"].items():
        assert field.get("title"), name
        assert field.get("description"), name
    assert schema["block_type_slug"] in ("open-specimen", "clinical-one")
    assert kind.get_description()
    assert "aload" in str(kind.get_code_example())


def test_the_blocks_are_registered_by_the_documented_command(prefect_server: PrefectServer, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "prefect", "block", "register", "-m", "blocks"]
    # The project is installed where this is typed; the tests run from its folder instead.
    environment = prefect_server.environment | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Clinical One" in done.stdout
    assert "OpenSpecimen" in done.stdout
