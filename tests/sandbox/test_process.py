"""The sandbox as a process of its own."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.sandbox.callers import EXAMPLE_UPDATE, Caller
from vendor_sandbox import RunningSandbox, SandboxControl, seed

Process = asyncio.subprocess.Process


@asynccontextmanager
async def process(*arguments: str) -> AsyncIterator[Process]:
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "vendor_sandbox",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def addresses(started: Process) -> RunningSandbox:
    assert started.stdout is not None
    found = json.loads(await started.stdout.readline())
    return RunningSandbox(found, SandboxControl(found["control_url"]))


async def test_it_prints_its_addresses_serves_and_ends_after_the_requests_in_progress(tmp_path: Path) -> None:
    log, data = tmp_path / "effects.jsonl", tmp_path / "seed.json"
    data.write_text(json.dumps(seed.many(2)))
    options = ["--effect-log", str(log), "--seed", str(data), "--time-zone", "Europe/Berlin"]
    async with process(*options, "--openspecimen-errors", "doc", "--latency-ms", "0.5") as started:
        sandbox = await addresses(started)
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            caller = Caller(sandbox, session)
            await caller.log_in()
            assert (await caller.registration(99)).status == 404
            caller.control.add_fault("openspecimen", "hold", call="update_registration")
            request = asyncio.create_task(caller.update(1, EXAMPLE_UPDATE))
            await caller.control.wait_held()
            started.send_signal(signal.SIGTERM)
            reply = await request
        assert reply.json["registrationDate"] == 1398031200000, "midnight in Berlin"
        assert await started.wait() == 0
        assert len(log.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--host", "::"], "is not a loopback address"),
        (["--time-zone", "Mars/Base"], "no zone"),
        (["--seed", "/nonexistent/seed.json"], "seed.json"),
    ],
)
async def test_what_cannot_be_is_said_in_one_line(arguments: list[str], problem: str) -> None:
    async with process(*arguments) as started:
        _, said = await started.communicate()
        assert started.returncode == 2
        assert problem in said.decode()
        assert len(said.splitlines()) == 1


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with process() as first:
        taken = (await addresses(first)).addresses["control_url"].rpartition(":")[2]
        async with process("--control-port", taken) as second:
            _, said = await second.communicate()
            assert second.returncode == 2
            assert b"in use" in said


async def test_another_start_knows_what_was_done_before_even_after_a_kill(tmp_path: Path) -> None:
    world = tmp_path / "world"
    options = ["--world", str(world)]
    async with process(*options) as first:
        sandbox = await addresses(first)
        async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            caller = Caller(sandbox, session)
            await caller.log_in()
            assert (await caller.update(1, EXAMPLE_UPDATE)).status == 200
        sandbox.control.dispense(seed.STUDY_ID, "test", seed.inventory_id(5), seed.subject_id(5))
        before = sandbox.control.state()
        first.kill()
        await first.wait()
    assert world.stat().st_mode & 0o077 == 0
    async with process(*options) as second:
        sandbox = await addresses(second)
        after = sandbox.control.state()
        assert before["openspecimen"].pop("sessions") == 1
        assert after["openspecimen"].pop("sessions") == 0, "log-ins end with the process"
        assert after == before
        sandbox.control.reset()
        second.send_signal(signal.SIGTERM)
        assert await second.wait() == 0
    async with process(*options) as third:
        assert (await addresses(third)).control.state()["openspecimen"]["registrations"]["1"]["ppid"] == "ASCI000"


async def test_a_file_that_is_no_world_is_named(tmp_path: Path) -> None:
    (tmp_path / "world").write_bytes(b"nonsense")
    async with process("--world", str(tmp_path / "world")) as started:
        _, said = await started.communicate()
        assert started.returncode == 2
        assert b"remove it to begin anew" in said
        assert len(said.splitlines()) == 1
