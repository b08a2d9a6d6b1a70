"""The transition tables as mermaid diagrams: `python -m onboarding.ledger.diagram` prints what docs/effects.md shows."""

from collections import defaultdict
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from onboarding.ledger.states import CASE_TRANSITIONS, STEP_TRANSITIONS, CaseStatus, StepStatus

_BEGINNINGS: Final[Mapping[type[StrEnum], tuple[StrEnum, ...]]] = {
    StepStatus: (StepStatus.PENDING, StepStatus.NOT_REQUESTED),
    CaseStatus: (CaseStatus.READY,),
}


def diagram(transitions: Mapping[StrEnum, Mapping[StrEnum, StrEnum]], statuses: type[StrEnum]) -> str:
    """One table as a mermaid state diagram; arrows between the same two statuses share one line of labels."""
    labels: dict[tuple[str, str], list[str]] = defaultdict(list)
    for event, moves in transitions.items():
        for before, after in moves.items():
            labels[before.value, after.value].append(event.value)
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {status.value}" for status in _BEGINNINGS[statuses]]
    lines += [f"    {before} --> {after}: {', '.join(events)}" for (before, after), events in labels.items()]
    return "\n".join(lines)


def step_diagram() -> str:
    """Every transition of a step."""
    return diagram(STEP_TRANSITIONS, StepStatus)  # type: ignore[arg-type]  # Mapping is invariant in its keys


def case_diagram() -> str:
    """Every transition of a case."""
    return diagram(CASE_TRANSITIONS, CaseStatus)  # type: ignore[arg-type]  # as above


if __name__ == "__main__":
    for text in (step_diagram(), case_diagram()):
        print(f"```mermaid\n{text}\n```\n")  # noqa: T201 - printing is what it is for
