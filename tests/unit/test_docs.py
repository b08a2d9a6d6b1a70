"""The documentation's diagrams and words are those of the code."""

import re
from pathlib import Path

import pytest

from onboarding.ledger.deciding import Decision
from onboarding.ledger.diagram import case_diagram, step_diagram
from onboarding.settings import CONNECTION_VARIABLES, PREFIX, Settings

ROOT = Path(__file__).parents[2]
EFFECTS = ROOT / "docs" / "effects.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_state_diagrams_are_made_from_the_transition_tables() -> None:
    text = EFFECTS.read_text("utf-8")
    shown = [part.split("```")[0].strip() for part in text.split("```mermaid\n")[1:]]
    assert shown == [step_diagram(), case_diagram()]


def test_every_decision_is_explained() -> None:
    text = EFFECTS.read_text("utf-8")
    for decision in set(Decision) - {Decision.RETRY}:  # a retry is what resume does
        assert f"onboard decide CASE {decision}" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_is_named_exists(page: Path) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in (*Settings.model_fields, "settings_file")}
    known |= {
        f"{PREFIX}{system.upper()}_{name.upper()}"
        for system, variables in CONNECTION_VARIABLES.items()
        for name in variables
    }
    named = set(re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b", page.read_text("utf-8")))
    assert named - known == set()


def test_every_page_can_be_reached_from_the_readme() -> None:
    readme = PAGES[0].read_text("utf-8")
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in readme] == []
