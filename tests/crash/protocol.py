"""The effect protocol over one leased case, as short as it can be: what the ledger's machine lets its runners write.

What has really happened is known to the machine (``World``), as it is to a vendor who can be asked. A function of this module
is one fenced write; it moves the case as the steps of the product do.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from onboarding.ledger.claims import ClaimKey, ExceptionClaim, take_claims
from onboarding.ledger.deciding import Holds
from onboarding.ledger.states import StepName, StepStatus
from onboarding.ledger.views import Held
from onboarding.ledger.writes import CaseWrite, Lease
from tests.ledger.bench import INTENT, registration_claim

Thing = tuple[StepName, str]
"""What an effect happens to: several cases may be about one."""
EXCEPTION_KEY = "content"
EXCEPTION_ID = "EXC1"


@dataclass
class OnItsWay:
    """A request; ``applied`` is None until it arrives or is lost, at ``until`` (seconds) at the latest."""

    thing: Thing
    until: float
    applied: bool | None = None


@dataclass
class Runner:
    """One taking of a lease.

    Attributes:
        intended_at: when its open intent was committed, on the machine's own clock.
        saw_none: it holds the exception's claim and has seen none listed since it took it.
    """

    lease: Lease
    boot: int
    step: StepName | None = None
    attempt: int = 0
    intended_at: float = 0.0
    saw_none: bool = False
    sent: OnItsWay | None = None


@dataclass
class World:
    """The other side. ``quiet``: until when a request about a thing may be applied, on the machine's own clock."""

    things: dict[str, dict[StepName, Thing]] = field(default_factory=dict)
    bound_to: dict[str, str] = field(default_factory=dict)
    happened: Counter[Thing] = field(default_factory=Counter)
    quiet: dict[Thing, float] = field(default_factory=dict)
    now: float = 0.0

    def has(self, case_id: str, step: StepName) -> bool:
        """Whether the effect that a case's step is about has happened."""
        return self.happened[self.things[case_id][step]] > 0

    def check_quiet(self, case_id: str, step: StepName) -> None:
        """The ledger says that nobody may apply it any more."""
        assert self.now >= self.quiet[self.things[case_id][step]], "absent before its quiet time was over"

    def claims(self, case_id: str, step: StepName) -> list[ClaimKey]:
        """What a step holds."""
        if step is not StepName.REGISTRATION or step not in self.things[case_id]:
            return []
        return [registration_claim(self.bound_to[case_id], self.things[case_id][step][1])]

    def holds(self, case_id: str) -> Holds:
        """What a decision about a case needs to know."""
        return Holds(registration=self.claims(case_id, StepName.REGISTRATION), exception=EXCEPTION_KEY)


Change = Callable[[CaseWrite], tuple[StepName, int] | None]


def begin_next(world: World, *, saw_none: bool) -> Change:
    """Begin the next step, unless it is in doubt or somebody else holds it: its name, and the attempt's number.

    An exception is listed first, under its claim: until then its attempt is 0.
    """

    def change(write: CaseWrite) -> tuple[StepName, int] | None:
        for name in StepName:
            step = write.step(name)
            if name is StepName.DND_EXCEPTION and step.status in (StepStatus.PENDING, StepStatus.OPEN):
                return _create_exception(write) if saw_none else _list_exceptions(write, world)
            if step.status is StepStatus.PENDING and name is StepName.DISPENSATION:
                step.found({})
            elif step.status is StepStatus.PENDING:
                if isinstance(take_claims(write, world.claims(write.lease.case_id, name)), Held):
                    step.wait("HELD_BY_ANOTHER_CASE")
                    return None
                if world.has(write.lease.case_id, name):
                    step.found({})
                    continue
                return name, step.intend(INTENT)
            elif step.status not in (StepStatus.DONE, StepStatus.NOT_REQUESTED):
                return None
        return None

    return change


def _list_exceptions(write: CaseWrite, world: World) -> tuple[StepName, int] | None:
    name = StepName.DND_EXCEPTION
    step, case_id = write.step(name), write.lease.case_id
    claim = ExceptionClaim.take(write, EXCEPTION_KEY)
    if isinstance(claim, Held) or claim.view().unknown:
        step.wait("HELD_BY_ANOTHER_CASE")
        return None
    if claim.view().open and not claim.view().intent.in_doubt:
        claim.doubt()
    if world.has(case_id, name):
        claim.adopt(EXCEPTION_ID, [])
        claim.give_back()
        step.found({"exception_id": EXCEPTION_ID})
        return None
    assert claim.view().effect_id is None, "the ledger knows an exception that there is not"
    if claim.view().open:
        if claim.view().intent.quiet_left_s > 0:
            step.wait("IN_DOUBT")
            return None
        world.check_quiet(case_id, name)
        claim.absent()
    if step.status is StepStatus.OPEN:
        step.absent("SETTLED_ON_THE_CLAIM")
    return name, 0


def _create_exception(write: CaseWrite) -> tuple[StepName, int]:
    step, claim = write.step(StepName.DND_EXCEPTION), ExceptionClaim.held(write, EXCEPTION_KEY)
    return step.name, step.mirror_intent(claim.intend(INTENT))


def record_answer(name: StepName, *, readable: bool, applied: bool) -> Callable[[CaseWrite], None]:
    """Write down what an answer says, or that none could be read."""

    def change(write: CaseWrite) -> None:
        step = write.step(name)
        claim = ExceptionClaim.held(write, EXCEPTION_KEY) if name is StepName.DND_EXCEPTION else None
        if not readable:
            step.doubt("CUT")
            if claim is not None:
                claim.doubt()
        elif applied:
            step.applied({"exception_id": EXCEPTION_ID} if claim is not None else {}, code="UPDATED")
            if claim is not None:
                claim.adopt(EXCEPTION_ID, [])
                claim.give_back()
        else:
            step.not_applied("THROTTLED")
            if claim is not None:
                claim.clear()

    return change


def settle_doubts(world: World, *, conclusive: bool) -> Callable[[CaseWrite], None]:
    """Settle what an earlier runner left open: applied at any time, absent only after the quiet time."""

    def change(write: CaseWrite) -> None:
        case_id = write.lease.case_id
        for name in (StepName.REGISTRATION, StepName.DEVICE):  # an exception is settled where it is begun
            step = write.step(name)
            if step.status is not StepStatus.OPEN:
                continue
            if not step.in_doubt:
                step.doubt("RUNNER_STOPPED")
            if not conclusive:
                step.inconclusive("CHANGED_BY_SOMEONE_ELSE")
            elif world.has(case_id, name):
                step.applied({"probed": True}, code="PROBE_FOUND_APPLIED")
            elif step.view().intent.quiet_left_s == 0:
                world.check_quiet(case_id, name)
                step.absent()
        doubtful = write.step(StepName.DND_EXCEPTION).status is StepStatus.OPEN
        if doubtful and not conclusive:
            claim = ExceptionClaim.take(write, EXCEPTION_KEY)
            if not isinstance(claim, Held) and claim.view().open:
                claim.call_unknown()
                write.step(StepName.DND_EXCEPTION).inconclusive("UNEXPECTED_EXCEPTION")

    return change


def leave(write: CaseWrite) -> None:
    """Finish, need a person, or give the case back."""
    statuses = [write.step(name).status for name in StepName]
    if all(status in (StepStatus.DONE, StepStatus.NOT_REQUESTED) for status in statuses):
        write.finish()
    elif StepStatus.UNKNOWN in statuses:
        write.need_attention("CHANGED_BY_SOMEONE_ELSE")
    else:
        write.park(0.0, "INTERRUPTED")
