"""A dry run: what each step would do, from reads alone. Nothing is sent, claimed or stored."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

from onboarding.advice import advice
from onboarding.clocks import boot_seconds
from onboarding.errors import AnswerError, NotYet, Refused
from onboarding.intake import IntakeRequest
from onboarding.ledger.states import StepName
from onboarding.settings import Settings
from onboarding.steps.comparison import MASKED, differences, may_merge, standing_content, wanted_content
from onboarding.steps.dispensation import read_guard
from onboarding.steps.registration import refuse_other_registration
from onboarding.steps.systems import Systems
from onboarding.vendors.wire import Deadline


class Action(StrEnum):
    """What a step would do."""

    CHANGE = "would change"
    NOTHING = "already so"
    SEND = "would register"
    WAIT = "would wait"
    REFUSE = "would be refused"
    ATTENTION = "needs a person first"
    UNREADABLE = "cannot be read now"
    NOT_REQUESTED = "not requested"


@dataclass(frozen=True)
class Change:
    """One field that would change; ``stands`` and ``asked`` are None for personal data, which is never shown."""

    field: str
    stands: str | None = None
    asked: str | None = None

    def __str__(self) -> str:
        """As ``ppid: ASCI000 -> ASCI123``; personal data is named, not shown."""
        if self.asked is None:
            return f"{self.field}: differs (personal data, not shown)"
        return f"{self.field}: {self.stands} -> {self.asked}"


@dataclass(frozen=True)
class PlanLine:
    """What one step would do; ``note`` says why, or what cannot be known; ``may_merge``: it could make two people one."""

    step: StepName
    action: Action
    note: str = ""
    code: str | None = None
    changes: tuple[Change, ...] = field(default=())
    may_merge: bool = False


@dataclass(frozen=True)
class PlanContext:
    """What reading for a plan needs."""

    request: IntakeRequest
    systems: Systems
    settings: Settings

    def deadline(self) -> Deadline:
        """A fresh deadline for one call."""
        return Deadline(self.settings.request_timeout_seconds)


_LIST_SERVES_S: Final = 30.0  # one list of exceptions serves the plans of many subjects, which promise nothing

NOT_OBSERVABLE: Final = (
    "not observable: nobody can ask the vendor whether a device is registered, so only its dispensation counts"
)


async def plan(request: IntakeRequest, systems: Systems, settings: Settings) -> list[PlanLine]:
    """One line for each step, in order."""
    context = PlanContext(request, systems, settings)
    lines = [await _looked(StepName.REGISTRATION, context, request.registration is not None)]
    dispensation = await _looked(StepName.DISPENSATION, context, request.device is not None)
    lines += [dispensation, _device(dispensation)]
    return [*lines, await _looked(StepName.DND_EXCEPTION, context, request.dnd_exception is not None)]


async def _looked(step: StepName, context: PlanContext, requested: bool) -> PlanLine:
    if not requested:
        return PlanLine(step, Action.NOT_REQUESTED)
    looks = {
        StepName.REGISTRATION: _registration,
        StepName.DISPENSATION: _dispensation,
        StepName.DND_EXCEPTION: _dnd_exception,
    }
    try:
        return await looks[step](context)
    except NotYet as error:
        return PlanLine(step, Action.WAIT, advice(error.code), error.code)
    except Refused as error:
        return PlanLine(step, Action.REFUSE, f"{error.system}: {advice(error.code)}", error.code)
    except AnswerError as error:
        return PlanLine(step, Action.UNREADABLE, f"{error.system}: {advice(error.code)}", error.code)


async def _registration(context: PlanContext) -> PlanLine:
    section = context.request.registration
    assert section is not None
    stands = await context.systems.openspecimen.read_registration(section.id, deadline=context.deadline())
    body = section.body()
    refuse_other_registration(context, body, stands)
    zone = ZoneInfo(context.systems.time_zone)
    wanted = wanted_content(body, zone)
    now = standing_content(wanted, stands, zone)
    changed = differences(wanted, now)
    if not changed:
        return PlanLine(StepName.REGISTRATION, Action.NOTHING)
    changes = tuple(_change(path, now[path], wanted[path]) for path in changed)
    merges = may_merge(wanted, now)
    note = "this may merge two people, which cannot be undone" if merges else ""
    return PlanLine(StepName.REGISTRATION, Action.CHANGE, note, changes=changes, may_merge=merges)


def _change(path: str, stands: str, asked: str) -> Change:
    if path.startswith("participant.") and path != "participant.id":
        return Change(path)
    return Change(path, "hidden" if stands == MASKED else stands or "nothing", asked or "nothing")


async def _dispensation(context: PlanContext) -> PlanLine:
    guard = await read_guard(context)
    return PlanLine(StepName.DISPENSATION, Action.NOTHING, f"dispensed to the subject; connection {guard.connection}")


def _device(dispensation: PlanLine) -> PlanLine:
    if dispensation.action is Action.NOT_REQUESTED:
        return PlanLine(StepName.DEVICE, Action.NOT_REQUESTED)
    action = Action.SEND if dispensation.action is Action.NOTHING else dispensation.action
    return PlanLine(StepName.DEVICE, action, NOT_OBSERVABLE, dispensation.code)


async def _dnd_exception(context: PlanContext) -> PlanLine:
    section = context.request.dnd_exception
    assert section is not None
    subject = context.request.subject
    listed = await context.systems.clinical_one.exceptions_since(
        subject.study_id,
        str(subject.mode),
        boot_seconds() - _LIST_SERVES_S,
        timeout_s=context.settings.request_timeout_seconds,
    )
    equal = listed.equal_to(section.normalised())
    if equal:
        more = f", and {len(equal) - 1} more equal to it" if equal[1:] else ""
        return PlanLine(StepName.DND_EXCEPTION, Action.NOTHING, f"exists as {equal[0]}{more}")
    return PlanLine(StepName.DND_EXCEPTION, Action.CHANGE, f"would be created; {len(listed)} others exist")
