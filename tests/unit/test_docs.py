"""The documentation's diagrams and words are those of the code."""

from pathlib import Path

from onboarding.ledger.deciding import Decision
from onboarding.ledger.diagram import case_diagram, step_diagram

EFFECTS = Path(__file__).parents[2] / "docs" / "effects.md"


def test_the_state_diagrams_are_made_from_the_transition_tables() -> None:
    text = EFFECTS.read_text("utf-8")
    shown = [part.split("```")[0].strip() for part in text.split("```mermaid\n")[1:]]
    assert shown == [step_diagram(), case_diagram()]


def test_every_decision_is_explained() -> None:
    text = EFFECTS.read_text("utf-8")
    for decision in set(Decision) - {Decision.RETRY}:  # a retry is what resume does
        assert f"onboard decide CASE {decision}" in text
