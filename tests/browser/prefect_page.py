"""The Prefect page as a data manager uses it: deployments, forms, runs, artifacts. Waits for what is shown, never for time."""

import re
from pathlib import Path
from typing import Any, Final

import httpx
from playwright.sync_api import Locator, Page, Response, expect
from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema

import flows
from tests.browser.form import Form

_FLOWS: Final[dict[str, Flow[..., Any]]] = {
    "onboard-subject": flows.onboard_subject,
    "onboard-batch": flows.onboard_batch,
    "decide-case": flows.decide_case,
    "resume-cases": flows.resume_cases,
    "take-inbox": flows.take_inbox,
}
RUN_ENDS_MS: Final = 180_000
BUSY_TRIES: Final = 5
_CASE: Final = re.compile(r"case:\w{12}")
_WIDTH, _HEIGHT = 1280, 900


class PrefectPage:
    """One page of the browser. Pictures are taken only if there is a folder for them."""

    def __init__(self, page: Page, address: str, pictures: Path | None) -> None:
        self.page = page
        self._address = address
        self._pictures = pictures

    def open_form(self, deployment: str) -> Form:
        """From the list of deployments to the form of one, as a person clicks."""
        self.page.goto(f"{self._address}/v2/deployments")
        self.page.get_by_role("link", name=deployment, exact=True).first.click()
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Custom run").click()
        self.page.get_by_role("button", name="Submit").wait_for()
        return Form(self.page, parameter_schema(_FLOWS[deployment]).model_dump())

    def submit(self) -> Response:
        """Submit the form, again if the server is busy (503, of Prefect on SQLite); gives what it answered."""
        for _ in range(BUSY_TRIES):
            with self.page.expect_response(lambda answer: answer.url.endswith("/create_flow_run")) as got:
                self.page.get_by_role("button", name="Submit").click()
            if got.value.status != httpx.codes.SERVICE_UNAVAILABLE:
                break
        return got.value

    def start(self) -> str:
        """Submit the form, which must be taken, and look at the run; gives its id."""
        answer = self.submit()
        assert answer.status == httpx.codes.CREATED, answer.text()
        self.page.get_by_role("link", name="View run").click()
        run_id: str = answer.json()["id"]
        self.page.wait_for_url(re.compile(f"/runs/flow-run/{run_id}"))
        return run_id

    def run(self, deployment: str, **parameters: Any) -> str:
        """Start a run by the form, filled in with these parameters; gives its id."""
        self.open_form(deployment).fill(parameters)
        return self.start()

    def ends(self, name: str) -> None:
        """Wait until the run that is looked at shows this name of a state at its top, and nothing else."""
        badges = self.page.locator("main").get_by_text(name, exact=True)
        expect(badges.first).to_be_visible(timeout=RUN_ENDS_MS)

    def case(self) -> str:
        """The case of the run that is looked at, as its tag shows it."""
        tag = self.page.locator("main").get_by_text(re.compile(f"^{_CASE.pattern}$")).first
        return tag.inner_text().removeprefix("case:")

    def tasks(self) -> Locator:
        """The task runs of the run that is looked at."""
        return self.tab("Task Runs").get_by_role("listitem").filter(has_text=_CASE)

    def tab(self, name: str) -> Locator:
        """Open a tab of the run that is looked at; gives what is in it."""
        self.page.get_by_role("tab", name=name).click()
        return self.page.get_by_role("tabpanel", name=name)

    def says(self, words: str) -> None:
        """The run that is looked at says these words about how it ended, among its details."""
        expect(self.tab("Details")).to_contain_text(words)

    def retry(self, *, picture: str) -> None:
        """Retry the run that is looked at; a picture shows where."""
        self.page.locator("main").get_by_role("button", name="Open menu").first.click()
        entry = self.page.get_by_role("menuitem", name="Retry")
        expect(entry).to_be_visible()
        self.picture(picture, height=960)
        entry.click()
        self.page.get_by_role("alertdialog").get_by_role("button", name="Retry").click()

    def open_artifact(self, key: str) -> None:
        """Open an artifact of the run that is looked at, with all its content."""
        self.tab("Artifacts").get_by_role("link", name=key).click()
        self.page.locator("main a[href*='/artifacts/artifact/']").first.click()

    def picture(self, name: str, *, width: int = _WIDTH, height: int = _HEIGHT, messages: bool = False) -> None:
        """Take a picture for the documentation, if asked to; without ``messages``, once those have gone."""
        if self._pictures is None:
            return
        self.page.mouse.move(0, 0)  # a message under the mouse stays
        if not messages:
            expect(self.page.get_by_role("region", name="Notifications").get_by_role("listitem")).to_have_count(0)
        if (width, height) != (_WIDTH, _HEIGHT):
            self.page.set_viewport_size({"width": width, "height": height})
        self.page.screenshot(path=self._pictures / f"{name}.png", animations="disabled")
        if (width, height) != (_WIDTH, _HEIGHT):
            self.page.set_viewport_size({"width": _WIDTH, "height": _HEIGHT})
