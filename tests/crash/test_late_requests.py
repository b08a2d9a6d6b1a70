"""Requests that the vendor applies after the client gave up on them.

Within the quiet time nothing may come of it: that is what the quiet time is for. After it, a second application is the stated
limit; the auditor must see it and call it that, and so it does wherever the vendor does not refuse it by itself.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from onboarding.ledger.states import CaseStatus
from tests.crash.auditor import applied_late, audit, gather
from tests.crash.lateness import excused
from tests.crash.points import SETTINGS, judged, settle
from tests.steps.lab import cloud_to_cloud, laboratory
from tests.support.requests import example

Request = Callable[[], dict[str, Any]]
CALLS: Final = [
    pytest.param("update_registration", example, id="registration"),
    pytest.param("register_device", example, id="device-to-cloud"),
    pytest.param("register_device", cloud_to_cloud, id="cloud-to-cloud"),
    pytest.param("create_exception", example, id="exception"),
]


@pytest.mark.parametrize(("call", "request_of"), CALLS)
async def test_a_request_that_is_applied_within_its_quiet_time_is_never_repeated(
    tmp_path: Path, call: str, request_of: Request
) -> None:
    async with laboratory(tmp_path, **{**SETTINGS, "settle_seconds": 3}) as lab:
        lab.fault(call, "hold", when="before")
        case_id = await lab.open(request_of())
        assert (await lab.attempt(case_id)).code == "DEADLINE_PASSED"
        assert audit(await judged(lab)) == []  # what was held goes on, while the quiet time lasts
        again = request_of is cloud_to_cloud  # sent again once it is surely refused if it had been applied
        assert len(lab.calls(call)) == 1 + again
        assert lab.case(case_id).status is CaseStatus.DONE


@pytest.mark.parametrize(("call", "request_of"), CALLS)
async def test_a_request_that_is_applied_after_its_quiet_time_is_seen_by_the_auditor(
    tmp_path: Path, call: str, request_of: Request
) -> None:
    async with laboratory(tmp_path, **SETTINGS) as lab:
        held = lab.fault(call, "hold", when="before")
        case_id = await lab.open(request_of())
        assert (await lab.attempt(case_id)).code == "DEADLINE_PASSED"
        await settle(lab)
        assert lab.case(case_id).status is CaseStatus.DONE
        lab.control.release(held)
        await lab.control.wait_idle()
        quiet_s = lab.bench.settings.quiet_seconds
        evidence = gather(lab.bench.ledger, lab.control, lab.effect_log, quiet_s=quiet_s)
        twice = request_of is not cloud_to_cloud  # there a second registration is refused
        assert (len(applied_late(evidence)), excused(evidence)) == (twice, twice)
        assert audit(evidence) == [], "it is no repetition of ours"
