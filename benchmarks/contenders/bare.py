"""Bare aiohttp: the calls made beforehand, no classes, no deadlines, answers read as JSON and thrown away."""

import aiohttp

from benchmarks.job import Job
from benchmarks.lanes import in_lanes
from benchmarks.stopwatch import Stopwatch
from benchmarks.subjects import CLINICAL_ONE, OPENSPECIMEN, Call, Calls, token_form
from vendor_sandbox import seed

_JSON = {"Content-Type": "application/json"}


async def run(job: Job, watch: Stopwatch) -> None:
    """Onboard the job's subjects."""
    calls = Calls(job.addresses)
    prepared = [calls.of_subject(number) for number in job.numbers]
    async with aiohttp.ClientSession(trust_env=False, raise_for_status=True) as session:
        watch.begin()
        headers = await _log_in(session, calls)

        async def send(several: list[Call]) -> None:
            for call in several:
                async with session.request(
                    call.method, call.url, data=call.body, headers=headers[call.system, call.body is not None]
                ) as answer:
                    await answer.json()

        await send(calls.exceptions())
        await in_lanes(prepared, job.at_once, send)
        watch.end()


async def _log_in(session: aiohttp.ClientSession, calls: Calls) -> dict[tuple[str, bool], dict[str, str]]:
    login = calls.login()
    async with session.post(login.url, data=login.body, headers=_JSON) as answer:
        of_openspecimen = {"X-OS-API-TOKEN": (await answer.json())["token"]}
    credentials = aiohttp.BasicAuth(seed.CLIENT_ID, seed.CLIENT_SECRET)
    async with session.post(calls.addresses["token_url"], data=token_form(), auth=credentials) as answer:
        of_clinical_one = {"Authorization": f"Bearer {(await answer.json())['access_token']}"}
    return {
        (OPENSPECIMEN, False): of_openspecimen,
        (OPENSPECIMEN, True): of_openspecimen | _JSON,
        (CLINICAL_ONE, False): of_clinical_one,
        (CLINICAL_ONE, True): of_clinical_one | _JSON,
    }
