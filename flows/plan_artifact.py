"""A dry run's plan as a table and as an artifact of the run. It holds no personal data: those fields are named only."""

from collections.abc import Sequence

from prefect.artifacts import acreate_table_artifact

from onboarding.steps.planning import PlanLine


def plan_rows(lines: Sequence[PlanLine]) -> list[dict[str, str]]:
    """The plan as table rows."""
    return [
        {
            "step": line.step.value,
            "what would happen": line.action.value,
            "differences": "; ".join(str(change) for change in line.changes),
            "code": line.code or "",
            "note": line.note,
        }
        for line in lines
    ]


async def save_plan(lines: Sequence[PlanLine]) -> None:
    """Store the plan with the run, where the page shows it."""
    await acreate_table_artifact(
        table=plan_rows(lines), key="onboarding-plan", description="What this onboarding would do. Nothing was sent."
    )
