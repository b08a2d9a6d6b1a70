"""A state machine over the ledger: runners that start, stop, freeze and are overtaken, in any order Hypothesis can think of.

The other side is a handful of requests on their way, each of which is applied or lost at any moment before its quiet time
ends. Runners follow the protocol (intent, last look at the lease, send, record); the ledger must keep them from ever applying
anything twice, and must know in the end what was applied. Two of three cases are about one registration, all about one exception.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from onboarding.errors import CaseContradicted, LeaseLost
from onboarding.keys import LedgerKey
from onboarding.ledger.deciding import Decided, Decision, DecisionRefused
from onboarding.ledger.leasing import LATE_ANSWER, Closed
from onboarding.ledger.ledger import Ledger, migrate
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.ledger.store import Store
from onboarding.ledger.together import Fenced
from onboarding.ledger.views import CaseView, EventView, Held
from onboarding.ledger.writes import CaseWrite, Lease
from tests.crash.points import quick_folder
from tests.crash.protocol import (
    EXCEPTION_ID,
    OnItsWay,
    Runner,
    World,
    begin_next,
    leave,
    record_answer,
    settle_doubts,
)
from tests.ledger.bench import QUIET_S, Bench, HandClock
from tests.ledger.conftest import KEY_TEXT, settings_for
from tests.support.requests import LEFT_OUT, request

SETTLE_S: Final = 4.0
LEASE_S: Final = 5.0
CASES: Final = 3
FAR: Final = datetime(2999, 1, 1, tzinfo=UTC)
DONE_KINDS: Final = {"step_applied", "step_found", "step_decided_applied"}
numbers = st.integers(0, CASES - 1)


@cache
def _template() -> bytes:
    with quick_folder() as folder:
        migrate(settings_for(f"sqlite:///{folder / 'ledger.db'}"))
        return (folder / "ledger.db").read_bytes()


class LedgerMachine(RuleBasedStateMachine):
    """Rules and invariants; see the module."""

    runners = Bundle("runners")

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        path = self._stack.enter_context(quick_folder()) / "ledger.db"
        path.write_bytes(_template())
        self.clock = HandClock()
        ledger = Ledger(Store(f"sqlite:///{path}", clock=self.clock), LedgerKey.from_text(KEY_TEXT))
        self.bench = Bench(ledger, self.clock)
        self._stack.callback(self.bench.close)
        self.world = World()
        self.boots = 1
        self.cases: list[str] = []
        self.requests: list[OnItsWay] = []
        self.takings: Counter[str] = Counter()
        self.late: Counter[str] = Counter()
        self.lied_to: set[str] = set()
        self.trails: dict[str, list[EventView]] = {}
        self.seen: dict[str, Any] = {}

    @initialize(exception_only=st.booleans())
    def open(self, exception_only: bool) -> None:
        """Two subjects; the third case is the first one's other, without a device. Or three that only share an exception."""
        for number in range(1, CASES + 1):
            subject = number if exception_only or number < CASES else 1
            asked = {StepName.DND_EXCEPTION: "shared"}
            if not exception_only:
                asked |= {StepName.REGISTRATION: str(subject)}
                asked |= {StepName.DEVICE: f"C{subject:031X}"} if number < CASES else {}
            wanted = request(
                subject__subject_id=f"{subject:032X}",
                **({"registration__id": subject} if StepName.REGISTRATION in asked else {"registration": LEFT_OUT}),
                **(
                    {"device__inventory_id": asked[StepName.DEVICE]}
                    if StepName.DEVICE in asked
                    else {"device": LEFT_OUT}
                ),
            )
            case_id = self.bench.open(wanted)
            self.cases.append(case_id)
            self.world.bound_to[case_id] = str(subject)
            self.world.things[case_id] = {name: (name, key) for name, key in asked.items()}

    # Leases

    @rule(target=runners, number=numbers)
    def take(self, number: int) -> Any:
        case_id = self.cases[number]
        leased, lied_to = self._lease_left_s(case_id) > 0, case_id in self.lied_to
        taken = self.bench.take(case_id, seconds=LEASE_S)
        assert isinstance(taken, Held) == leased, "a live lease keeps others out, and only that"
        self.takings[case_id] += isinstance(taken, Lease)
        if lied_to and not leased:
            assert taken == Closed(CaseStatus.ATTENTION, LATE_ANSWER), (
                "a late answer that contradicts stops the next one"
            )
            self.lied_to.discard(case_id)
            self.takings[case_id] += 1
        return Runner(taken, self.boots) if isinstance(taken, Lease) else multiple()

    @rule(target=runners, number=numbers)
    def resume(self, number: int) -> Any:
        """What a runner usually does in one go: take, settle what is open, begin the next step, send."""
        runner = self.take(number)
        if isinstance(runner, Runner):
            self.probe(runner, conclusive=True)
            self.intend(runner)
            self.intend(runner)
            self.send(runner)
        return runner

    @rule(target=runners, number=numbers, busy=st.booleans(), arrives=st.sampled_from([None, True, False]))
    def overtake(self, number: int, busy: bool, arrives: bool | None) -> Any:
        """A runner freezes past its lease, with a request on its way or without, and another takes the case over."""
        frozen = (self.resume if busy else self.take)(number)
        if not isinstance(frozen, Runner):
            return multiple()
        if arrives is not None and frozen.sent is not None:
            self._arrive(frozen.sent, applied=arrives)
        self.time_passes(QUIET_S + 1.5)
        other = self.resume(number)
        return multiple(frozen, other) if isinstance(other, Runner) else frozen

    @rule(target=runners)
    def rivals(self) -> Any:
        """All cases are worked at once, two of them about one registration, and whatever was sent arrives after that."""
        rivals = [runner for number in range(CASES) if isinstance(runner := self.resume(number), Runner)]
        for runner in rivals:
            if runner.sent is not None:
                self._arrive(runner.sent, applied=True)
        return multiple(*rivals)

    @rule(target=runners, number=numbers, other=numbers)
    def dawdle(self, number: int, other: int) -> Any:
        """A runner begins and freezes past its lease; nobody takes its case, but another case gets on meanwhile."""
        slow = self.take(number)
        if not isinstance(slow, Runner):
            return multiple()
        self.probe(slow, conclusive=True)
        self.intend(slow)
        self.time_passes(LEASE_S + 0.5)
        quick = self.resume(other) if other != number else None
        if isinstance(quick, Runner) and quick.sent is not None:
            self._arrive(quick.sent, applied=True)
            self.record(quick, readable=True)
        self.intend(slow)
        self.send(slow)
        return slow

    @rule(number=numbers)
    def interrupted(self, number: int) -> None:
        """Resumed, and then a signal: the case is given back with its request on the way."""
        runner = self.resume(number)
        if isinstance(runner, Runner):
            self.leave(runner)

    @rule(runner=runners)
    def renew(self, runner: Runner) -> None:
        self._write(runner, lambda _write: None)

    @rule(runner=consumes(runners))
    def crash(self, runner: Runner) -> None:
        """Nobody hears of this runner again."""

    # Work

    @rule(runner=runners)
    def intend(self, runner: Runner) -> None:
        """Begin the next step, as far as it is not in doubt; an exception is begun by listing those there are."""
        if runner.step is None:
            change = begin_next(self.world, saw_none=runner.saw_none)
            runner.saw_none = False
            self._begun(runner, self._write(runner, change))

    @rule(one=runners, other=runners)
    def intend_together(self, one: Runner, other: Runner) -> None:
        """Two runners' writes in one transaction: each counts, or fails, alone."""
        several = [one, other] if one.lease.case_id != other.lease.case_id else [one]
        able = [runner for runner in several if runner.step is None and runner.boot == self.boots]
        owns = [self._owns(runner) for runner in able]
        works = [Fenced(runner.lease, begin_next(self.world, saw_none=runner.saw_none)) for runner in able]
        for runner, mine, result in zip(able, owns, self.bench.together(works), strict=True):
            assert mine or isinstance(result, LeaseLost), "a runner that was overtaken wrote, with another's help"
            runner.saw_none = False
            if isinstance(result, CaseContradicted):
                self.lied_to.discard(runner.lease.case_id)
            elif not isinstance(result, LeaseLost):
                assert not isinstance(result, BaseException), result
                self._begun(runner, result)

    @rule(runner=runners)
    def send(self, runner: Runner) -> None:
        """Send what was intended, unless the deadline has passed or the lease: the look right before the first byte."""
        late = self.world.now >= runner.intended_at + QUIET_S - SETTLE_S
        owns = self._owns(runner) and self._lease_left_s(runner.lease.case_id) > 0
        if runner.step is None or runner.sent is not None or late or not owns or runner.boot != self.boots:
            return
        thing = self.world.things[runner.lease.case_id][runner.step]
        runner.sent = OnItsWay(thing, runner.intended_at + QUIET_S)
        self.requests.append(runner.sent)

    @rule(pick=st.integers(0, 99), applied=st.sampled_from([True, True, True, False]))
    def arrive(self, pick: int, applied: bool) -> None:
        """A request is applied, or lost."""
        waiting = [one for one in self.requests if one.applied is None]
        if waiting:
            self._arrive(waiting[pick % len(waiting)], applied=applied)

    @rule(runner=runners, readable=st.booleans())
    def record(self, runner: Runner, readable: bool) -> None:
        """The answer reaches the runner, who writes down what is known, late or not."""
        if runner.sent is None or runner.step is None or runner.sent.applied is None or runner.boot != self.boots:
            return
        name, applied, attempt = runner.step, runner.sent.applied, runner.attempt
        runner.step, runner.sent = None, None
        written = self._write(runner, record_answer(name, readable=readable, applied=applied), result=True)
        if written is None and readable:
            self._answer_late(runner.lease.case_id, name, attempt, "applied" if applied else "not_applied")

    @rule(runner=runners, conclusive=st.sampled_from([True, True, False]))
    def probe(self, runner: Runner, conclusive: bool) -> None:
        """Settle what an earlier runner left open."""
        if runner.step is None:
            self._write(runner, settle_doubts(self.world, conclusive=conclusive))

    @rule(runner=consumes(runners))
    def leave(self, runner: Runner) -> None:
        """Finish, need a person, or give the case back."""
        self._write(runner, leave)

    # Time, people, and a vendor that contradicts itself

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.world.now += seconds
        for one in self.requests:
            if one.applied is None and one.until < self.world.now:
                self._arrive(one, applied=False)  # the vendor keeps its word: nothing is applied later

    @rule()
    def reboot(self) -> None:
        """Every runner is gone with the machine, and the clock begins anew; what was sent is still on its way."""
        self.boots += 1
        self.clock.epoch, self.clock.seconds = f"boot {self.boots}", 3.0

    @rule(number=numbers)
    def decide(self, number: int) -> None:
        """A person looks on the other side, once nothing can arrive any more."""
        case_id = self.cases[number]
        case = self.bench.case(case_id)
        name = case.contradicted or next((n for n, s in case.steps.items() if s.status is StepStatus.UNKNOWN), None)
        if case.status is not CaseStatus.ATTENTION or name is None:
            return
        if any(one.applied is None and one.thing == self.world.things[case_id][name] for one in self.requests):
            return
        applied = self.world.has(case_id, name)
        exists = EXCEPTION_ID if applied and name is StepName.DND_EXCEPTION else None
        decided = Decided(
            Decision.APPLIED if applied else Decision.ABSENT, "person", "looked on the other side", exception_id=exists
        )
        with suppress(DecisionRefused):  # its quiet time is not over, or a case is at it
            self.bench.ledger.decide(case_id, decided, self.world.holds(case_id))

    @rule(number=numbers)
    def lie(self, number: int) -> None:
        """An answer comes late that says applied of what the ledger knows is not: whoever is next must stop."""
        case_id = self.cases[number]
        case = self.bench.case(case_id)
        if case.status is not CaseStatus.READY or case.steps[StepName.REGISTRATION].status is not StepStatus.PENDING:
            return
        self._answer_late(case_id, StepName.REGISTRATION, 1, "applied")
        self.lied_to.add(case_id)

    # What must always be so

    @invariant()
    def nothing_happens_twice(self) -> None:
        assert all(count == 1 for count in self.world.happened.values()), self.world.happened

    @invariant()
    def what_is_due_is_found_and_what_changed_is_told(self) -> None:
        rows = self.bench.sql("SELECT * FROM onboarding_case")
        free = {row["id"] for row in rows if row["status"] == CaseStatus.READY and self._left_s(row) == 0}
        assert set(self.bench.ledger.find_due(limit=9, now=FAR)) == free
        for row in rows:
            if (seen := (row["trail_sequence"], row["trail_seal"], row["updated_at"])) != self.seen.get(row["id"]):
                self.seen[row["id"]] = seen
                case, trail = self.bench.case(row["id"]), self.bench.ledger.events(row["id"])
                self._done_is_what_happened(case)
                self._trail_tells_everything(case, trail)

    def _done_is_what_happened(self, case: CaseView) -> None:
        for name in self.world.things[case.id]:
            if case.steps[name].status is StepStatus.DONE:
                assert self.world.has(case.id, name) or case.status is CaseStatus.ATTENTION
        assert case.status is not CaseStatus.READY or case.due_at is not None

    def _trail_tells_everything(self, case: CaseView, trail: list[EventView]) -> None:
        assert self.bench.ledger.trail_problems(case.id) == []
        before = self.trails.get(case.id, [])
        assert trail[: len(before)] == before, "a trail only grows"
        self.trails[case.id] = trail
        kinds = Counter(event.kind for event in trail)
        assert (kinds["lease_taken"], kinds["late_answer"]) == (self.takings[case.id], self.late[case.id])
        for name, step in case.steps.items():
            mine = [event.kind for event in trail if event.step == name]
            assert mine.count("step_intent") == step.intent.attempts
            assert mine.count("step_probed_absent") >= step.intent.absences
            assert step.status is not StepStatus.DONE or DONE_KINDS & set(mine)
            assert step.status is not StepStatus.UNKNOWN or "step_inconclusive" in mine
            assert not step.intent.in_doubt or "step_in_doubt" in mine

    def teardown(self) -> None:
        """Once faults stop, everything comes to rest, and the ledger knows what happened."""
        try:
            if self.cases:
                self._come_to_rest()
        finally:
            self._stack.close()

    def _come_to_rest(self) -> None:
        for _ in range(16):
            self.time_passes(60.0)
            for number in range(CASES):
                self.decide(number)
                runner = self.take(number)
                if isinstance(runner, Runner):
                    self.probe(runner, conclusive=True)
                    self.intend(runner)
                    self.intend(runner)
                    self.send(runner)
                    self.arrive(0, applied=True)
                    self.record(runner, readable=True)
                    self.leave(runner)
            self.nothing_happens_twice()
        self.what_is_due_is_found_and_what_changed_is_told()
        for case_id in self.cases:
            case = self.bench.case(case_id)
            assert case.status is CaseStatus.DONE, (case.status, case.reason, self.bench.kinds(case_id))
        assert self.world.happened == Counter(
            {thing for things in self.world.things.values() for thing in things.values()}
        )

    # Helpers

    def _write(self, runner: Runner, change: Callable[[CaseWrite], Any], *, result: Any = None) -> Any:
        """One fenced write: only by the runner whose lease is the last that was taken. ``result``: what to give back then."""
        if runner.boot != self.boots:
            return None
        owns, lied_to = self._owns(runner), runner.lease.case_id in self.lied_to
        try:
            given = self.bench.ledger.fenced(runner.lease, change)
        except CaseContradicted:
            self.lied_to.discard(runner.lease.case_id)
            return None
        except LeaseLost:
            return None  # of the case, or of the exception's claim
        assert owns, "a runner that was overtaken, or gave its case back, wrote"
        assert not lied_to, "a late answer that contradicts was not seen"
        return result or given

    def _begun(self, runner: Runner, begun: tuple[StepName, int] | None) -> None:
        if begun is not None and begun[1] == 0:
            runner.saw_none = True
        elif begun is not None:
            runner.step, runner.attempt = begun
            runner.intended_at = self.world.now
            self.world.quiet[self.world.things[runner.lease.case_id][runner.step]] = self.world.now + QUIET_S

    def _answer_late(self, case_id: str, name: StepName, attempt: int, says: str) -> None:
        answer = {"step": name.value, "attempt": attempt, "fence": 0, "says": says, "code": "LATE"}
        self.bench.ledger.keep_late_answer(case_id, "runner", answer)
        self.late[case_id] += 1

    def _row(self, case_id: str) -> dict[str, Any]:
        (row,) = self.bench.sql("SELECT * FROM onboarding_case WHERE id = :id", id=case_id)
        return row

    def _owns(self, runner: Runner) -> bool:
        row = self._row(runner.lease.case_id)
        return bool((row["lease_owner"], row["fence"]) == (runner.lease.owner, runner.lease.fence))

    def _lease_left_s(self, case_id: str) -> float:
        return self._left_s(self._row(case_id))

    def _left_s(self, row: dict[str, Any]) -> float:
        mine = row["lease_owner"] is not None and row["lease_epoch"] == self.clock.epoch
        return max(0.0, float(row["lease_until"]) - self.clock.seconds) if mine else 0.0

    def _arrive(self, one: OnItsWay, *, applied: bool) -> None:
        one.applied = applied
        if applied:
            self.world.happened[one.thing] += 1


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(settings.default, max_examples=25, stateful_step_count=40)
