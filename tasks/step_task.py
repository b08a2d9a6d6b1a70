"""What the four tasks have in common: retries for short waits, no cache, no stored result, and states with names.

Results and caches of Prefect are not the record of what happened; the ledger is. A task that runs again asks the ledger.
"""

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib import import_module
from typing import Any, Final, cast

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.states import Completed, Failed
from prefect.tasks import Task

from onboarding.advice import advice
from onboarding.endings import ENDINGS
from onboarding.errors import OnboardingError
from onboarding.ledger.states import StepName
from onboarding.steps.attempt import attempt_step
from onboarding.steps.report import StepReport
from onboarding.steps.session import CaseSession
from tasks.faults import UnexpectedFault, told
from tasks.tagging import tag_with_case

# Prefect imports these when the first task of a run begins; here they are imported before the run does.
for _late in ("_internal.states", "concurrency.services", "task_engine", "utilities.visualization"):
    with suppress(ImportError):  # another version may have none
        import_module(f"prefect.{_late}")

RETRY_DELAYS_S: Final = [1.0, 2.0, 4.0, 9.0]
_SESSION: ContextVar[CaseSession] = ContextVar("case_session")
_REPORTS: ContextVar[list[StepReport]] = ContextVar("step_reports")


class WaitsShortly(Exception):
    """The step waits for less than ten seconds: the task is retried, under the renewed lease."""

    def __init__(self, report: StepReport) -> None:
        self.report = report
        super().__init__(f"{report.code}: {advice(report.code, report.system)}")


@contextmanager
def working_on(session: CaseSession) -> Iterator[list[StepReport]]:
    """Let the tasks of this run work on a session; gives the list of their reports."""
    reports: list[StepReport] = []
    marks = _SESSION.set(session), _REPORTS.set(reports)
    try:
        yield reports
    finally:
        _SESSION.reset(marks[0])
        _REPORTS.reset(marks[1])


async def report_of(step_task: Task[[str], Any], case_id: str) -> StepReport:
    """Run a step's task in this flow run and give its report; raises what the task raised, so that no later step runs."""
    reports = _REPORTS.get()
    before = len(reports)
    state: State[Any] = await cast("Awaitable[State[Any]]", step_task(case_id, return_state=True))
    if len(reports) == before:
        await state.aresult()
    assert len(reports) == before + 1, "a task that ends without an exception leaves a report"
    return reports[-1]


async def is_short_wait(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed attempt is a short wait: the only thing that a task retries."""
    try:
        await state.aresult()
    except WaitsShortly:
        return True
    except Exception:  # noqa: BLE001 - whatever else it was, it is not retried
        return False
    return False


OPTIONS: Final[dict[str, Any]] = {
    "retries": len(RETRY_DELAYS_S),
    "retry_delay_seconds": RETRY_DELAYS_S,
    "retry_condition_fn": is_short_wait,
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "log_prints": False,
}


async def run_step(case_id: str, step: StepName) -> State[Any]:
    """Attempt a step of the case that this run has leased, and say how it ended."""
    session = _SESSION.get()
    assert session.case_id == case_id, "a task works on the case of its own run"
    tag_with_case(case_id)
    try:
        report = await attempt_step(session, step)
        await session.flush()  # what a task says is done stands in the ledger
    except OnboardingError:
        raise
    except Exception as error:  # noqa: BLE001 - Prefect would store its text
        raise UnexpectedFault(told(error)) from None
    if report.waits_shortly and not _is_last_attempt():
        raise WaitsShortly(report)
    _REPORTS.get().append(report)
    return state_of(report)


def state_of(report: StepReport) -> State[Any]:
    """The Prefect state for a report: its type from the table of endings, its name the ending."""
    facts = ENDINGS[report.ending]
    name = "Completed" if report.ending == "Done" else str(report.ending)
    message = f"{report.code}: {advice(report.code, report.system)}" if report.code else facts.meaning
    make = Failed if facts.state == "FAILED" else Completed
    return make(name=name, message=message)


def _is_last_attempt() -> bool:
    context = TaskRunContext.get()
    return context is None or context.task_run.run_count > len(RETRY_DELAYS_S)
