"""A plain script: httpx, one subject after another, nothing stored."""

import httpx

from benchmarks.job import Job
from benchmarks.stopwatch import Stopwatch
from benchmarks.subjects import CLINICAL_ONE, OPENSPECIMEN, Calls, token_form
from vendor_sandbox import seed


async def run(job: Job, watch: Stopwatch) -> None:
    """Onboard the job's subjects."""
    _script(job, watch)  # it blocks, as such a script does


def _script(job: Job, watch: Stopwatch) -> None:
    calls = Calls(job.addresses)
    prepared = [calls.of_subject(number) for number in job.numbers]
    with httpx.Client(timeout=30, trust_env=False) as client:
        watch.begin()
        headers = _log_in(client, calls)
        for several in [calls.exceptions(), *prepared]:
            for call in several:
                answer = client.request(call.method, call.url, content=call.body, headers=headers[call.system])
                answer.raise_for_status().json()
        watch.end()


def _log_in(client: httpx.Client, calls: Calls) -> dict[str, dict[str, str]]:
    login = calls.login()
    kind = {"Content-Type": "application/json"}
    session = client.post(login.url, content=login.body, headers=kind).raise_for_status()
    token = client.post(
        calls.addresses["token_url"], data=token_form(), auth=(seed.CLIENT_ID, seed.CLIENT_SECRET)
    ).raise_for_status()
    return {
        OPENSPECIMEN: {"X-OS-API-TOKEN": session.json()["token"]} | kind,
        CLINICAL_ONE: {"Authorization": f"Bearer {token.json()['access_token']}"} | kind,
    }
