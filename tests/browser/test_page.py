"""What a data manager does on the page, in a real browser, against everything that `onboard up` runs."""

from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from cli.demo import documented_request
from tests.browser.conftest import House
from tests.browser.prefect_page import PrefectPage
from tests.support.batch_files import csv_text, subject_row
from vendor_sandbox import seed

# One process runs them all, since they share what is slow to start.
pytestmark = pytest.mark.xdist_group("browser")


def only(section: str, number: int, **changes: Any) -> dict[str, Any]:
    """A request for one step of the n-th subject."""
    content = documented_request(number, **changes)
    return {name: content[name] for name in (section, "subject")}


def test_a_subject_is_onboarded_from_the_form_and_its_runs_are_found_by_its_case(page: PrefectPage) -> None:
    form = page.open_form("onboard-subject")
    form.fill({"request": documented_request(1)})
    page.page.get_by_label("Run Name").scroll_into_view_if_needed()
    page.picture("form", width=1120, height=1250)
    page.start()
    page.ends("Onboarded")
    tasks = page.tasks()
    expect(tasks).to_have_count(4)
    expect(tasks.get_by_text("Completed", exact=True)).to_have_count(4)
    case = page.case()
    for step in ("registration", "dispensation", "device", "dnd_exception"):
        expect(tasks.get_by_role("link", name=f"{step} {case}")).to_be_visible()
    page.picture("onboarded", width=1120, height=1000)
    page.page.goto(page.page.url.split("/v2/")[0] + "/v2/runs")
    page.page.get_by_role("textbox", name="All tags").fill(f"case:{case}")
    page.page.keyboard.press("Enter")
    expect(page.page.get_by_text("1 Flow run", exact=True)).to_be_visible()


def test_an_error_in_the_form_is_refused_with_the_name_of_the_field(page: PrefectPage) -> None:
    request = documented_request(1)
    request["subject"]["study_id"] = "our study"
    page.open_form("onboard-subject").fill({"request": request})
    answer = page.submit()
    assert answer.status == httpx.codes.CONFLICT
    assert "'request.subject.study_id'" in answer.json()["detail"]
    expect(page.page.get_by_text("'our study' does not match").first).to_be_visible()
    expect(page.page.get_by_role("region", name="Notifications")).to_contain_text("request.subject.study_id")
    page.page.get_by_label("Study id", exact=True).scroll_into_view_if_needed()
    page.picture("field-refused", messages=True)


def test_a_dry_run_shows_its_plan_and_sends_nothing(page: PrefectPage, house: House) -> None:
    before = house.control.effects()
    page.run("onboard-subject", request=documented_request(6), dry_run=True)
    page.ends("Planned")
    page.open_artifact("onboarding-plan")
    table = page.page.get_by_role("table")
    expect(table.get_by_text("registration", exact=True)).to_be_visible()
    page.picture("plan", width=1700, height=560)
    assert house.control.effects() == before


def test_a_device_that_is_not_dispensed_waits(page: PrefectPage) -> None:
    page.run("onboard-subject", request=only("device", 5))
    page.ends("AwaitingDispensation")
    page.says("NOT_DISPENSED")
    page.picture("awaiting-dispensation", height=960)


def test_retry_goes_on_with_a_case_that_was_refused_and_mended(page: PrefectPage, house: House) -> None:
    house.control.add_fault("openspecimen", "refuse", call="update_registration", code="CPR_DUP_PPID")
    page.run("onboard-subject", request=documented_request(2, device={"vendor_code": "XYZ123"}))
    page.ends("NeedsAttention")
    page.says("CPR_DUP_PPID: Another registration of the protocol has this PPID already")
    house.control.remove_faults()
    page.retry(picture="needs-attention")
    page.ends("Onboarded")
    assert page.case()


def test_a_case_whose_outcome_is_unknown_is_decided_by_the_form(page: PrefectPage, house: House) -> None:
    house.control.add_fault("openspecimen", "cut", call="update_registration", when="after")
    house.control.add_fault(
        "openspecimen", "refuse", call="read_registration", nth=2, status=400, code="CPR_M_NOT_FOUND"
    )
    page.run("onboard-subject", request=only("registration", 6))
    page.ends("NeedsAttention")
    case = page.case()
    form = page.open_form("decide-case")
    form.fill({"case_id": case, "decision": "applied", "reason_code": "checked_on_the_other_side", "attempt": 1})
    form.fill({"reference": "CHG-4711"})
    page.picture("decide", height=1000)
    page.start()
    page.ends("Decided")
    assert page.case() == case
    page.says("decided applied; it is done now")


def test_a_file_of_the_inbox_is_onboarded_and_its_table_says_what_became_of_each_row(
    page: PrefectPage, house: House
) -> None:
    house.control.seed(seed.many(3), add=True)
    rows = [subject_row(1), subject_row(2), subject_row(3, registration__participant__id="2000001")]
    (house.inbox / "site-12.csv").write_text(csv_text(rows), "utf-8")
    page.run("onboard-batch", file="site-12.csv")
    page.ends("BatchNeedsAttention")
    page.open_artifact("onboarding-batch-results")
    table = page.page.get_by_role("table")
    expect(table.get_by_text("done", exact=True)).to_have_count(2)
    expect(table.get_by_text("attention", exact=True)).to_have_count(1)
    page.picture("batch", width=2100, height=560)
