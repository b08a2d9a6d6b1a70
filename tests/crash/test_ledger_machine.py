"""A state machine over the ledger: runners that start, stop, freeze and are overtaken, in any order Hypothesis can think of.

The other side is a handful of requests on their way, each of which is applied or lost at any moment before its quiet time
ends. Runners follow the protocol (intent, last look at the lease, send, record); the ledger must keep them from ever applying
anything twice, and must know in the end what was applied.
"""

from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from onboarding.errors import CaseContradicted, LeaseLost
from onboarding.keys import LedgerKey
from onboarding.ledger.deciding import Decided, Decision, Holds
from onboarding.ledger.ledger import Ledger, migrate
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.ledger.store import Store
from onboarding.ledger.views import EventView, Held
from onboarding.ledger.writes import CaseWrite, Lease
from tests.crash.points import quick_folder
from tests.ledger.bench import INTENT, QUIET_S, Bench, HandClock
from tests.ledger.conftest import KEY_TEXT, settings_for
from tests.support.requests import LEFT_OUT, request

SETTLE_S = 4.0
LEASE_S = 5.0
SUBJECTS = 2
FAR = datetime(2999, 1, 1, tzinfo=UTC)
Thing = tuple[str, StepName]


@dataclass
class Runner:
    """One taking of a lease. ``intended_at``: when its open intent was committed, on the machine's own clock."""

    lease: Lease
    boot: int
    step: StepName | None = None
    attempt: int = 0
    intended_at: float = 0.0
    sent: "OnItsWay | None" = None


@dataclass
class OnItsWay:
    """A request; ``applied`` is None until it arrives or is lost."""

    thing: Thing
    until: float
    applied: bool | None = None


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
        self.now = 0.0
        self.boots = 1
        self.cases: list[str] = []
        self.requests: list[OnItsWay] = []
        self.happened: Counter[Thing] = Counter()
        self.trails: dict[str, list[EventView]] = {}

    # Cases and leases

    @initialize()
    def open(self) -> None:
        for number in range(1, SUBJECTS + 1):
            wanted = request(
                subject__subject_id=f"{number:032X}",
                registration__id=number,
                device__inventory_id=f"C{number:031X}",
                dnd_exception=LEFT_OUT,
            )
            self.cases.append(self.bench.open(wanted))

    @rule(target=runners, number=st.integers(0, SUBJECTS - 1))
    def resume(self, number: int) -> Any:
        """What a runner usually does in one go: take, settle what is open, begin the next step, send."""
        runner = self.take(number)
        if isinstance(runner, Runner):
            self.probe(runner, conclusive=True)
            self.intend(runner)
            self.send(runner)
        return runner

    @rule(target=runners, number=st.integers(0, SUBJECTS - 1))
    def take(self, number: int) -> Any:
        left_s = self.bench.case(self.cases[number]).lease_left_s
        taken = self.bench.take(self.cases[number], seconds=LEASE_S)
        assert isinstance(taken, Held) == (left_s > 0), "a live lease keeps others out, and only that"
        return Runner(taken, self.boots) if isinstance(taken, Lease) else multiple()

    @rule(number=st.integers(0, SUBJECTS - 1))
    def interrupted(self, number: int) -> None:
        """As above, and then a signal: the case is given back with its request on the way."""
        runner = self.resume(number)
        if isinstance(runner, Runner):
            self.leave(runner)

    @rule(runner=runners)
    def renew(self, runner: Runner) -> None:
        if runner.boot != self.boots:
            return
        with suppress(LeaseLost, CaseContradicted):
            self.bench.ledger.renew(runner.lease)

    @rule(runner=consumes(runners))
    def crash(self, runner: Runner) -> None:
        """Nobody hears of this runner again."""

    # Work

    @rule(runner=runners)
    def intend(self, runner: Runner) -> None:
        """Begin the next step, as far as it is not in doubt; a dispensation needs no intent."""

        def change(write: CaseWrite) -> tuple[StepName, int] | None:
            for name in StepName:
                step = write.step(name)
                if step.status is StepStatus.PENDING and name is StepName.DISPENSATION:
                    step.found({})
                elif step.status is StepStatus.PENDING:
                    return name, step.intend(INTENT)
                elif step.status not in (StepStatus.DONE, StepStatus.NOT_REQUESTED):
                    return None
            return None

        if runner.step is not None or runner.boot != self.boots:
            return
        with suppress(LeaseLost, CaseContradicted):
            begun = self.bench.ledger.fenced(runner.lease, change)
            if begun is not None:
                runner.step, runner.attempt = begun
                runner.intended_at = self.now

    @rule(runner=runners)
    def send(self, runner: Runner) -> None:
        """Send what was intended, unless the deadline has passed or the lease: the look right before the first byte."""
        late = self.now >= runner.intended_at + QUIET_S - SETTLE_S
        if runner.step is None or runner.sent is not None or late or not self._still_owns(runner):
            return
        runner.sent = OnItsWay((runner.lease.case_id, runner.step), runner.intended_at + QUIET_S)
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
        step, applied, attempt = runner.step, runner.sent.applied, runner.attempt
        runner.step, runner.sent = None, None

        def change(write: CaseWrite) -> None:
            if not readable:
                write.step(step).doubt("CUT")
            elif applied:
                write.step(step).applied({}, code="UPDATED")
            else:
                write.step(step).not_applied("THROTTLED")

        try:
            self.bench.ledger.fenced(runner.lease, change)
        except CaseContradicted:
            return
        except LeaseLost:
            if readable:
                says = "applied" if applied else "not_applied"
                answer = {"step": step.value, "attempt": attempt, "fence": 0, "says": says, "code": "LATE"}
                self.bench.ledger.keep_late_answer(runner.lease.case_id, runner.lease.actor, answer)

    @rule(runner=runners, conclusive=st.booleans())
    def probe(self, runner: Runner, conclusive: bool) -> None:
        """Settle what an earlier runner left open: applied at any time, absent only after the quiet time."""

        def change(write: CaseWrite) -> None:
            for name in StepName:
                step = write.step(name)
                if step.status is not StepStatus.OPEN:
                    continue
                if not step.in_doubt:
                    step.doubt("RUNNER_STOPPED")
                if not conclusive:
                    step.inconclusive("CHANGED_BY_SOMEONE_ELSE")
                elif self.happened[runner.lease.case_id, name]:
                    step.applied({"probed": True}, code="PROBE_FOUND_APPLIED")
                elif step.view().intent.quiet_left_s == 0:
                    step.absent()

        if runner.step is None and runner.boot == self.boots:
            with suppress(LeaseLost, CaseContradicted):
                self.bench.ledger.fenced(runner.lease, change)

    @rule(runner=consumes(runners))
    def leave(self, runner: Runner) -> None:
        """Finish, need a person, or give the case back."""

        def change(write: CaseWrite) -> None:
            statuses = [write.step(name).status for name in StepName]
            if all(status in (StepStatus.DONE, StepStatus.NOT_REQUESTED) for status in statuses):
                write.finish()
            elif StepStatus.UNKNOWN in statuses:
                write.need_attention("CHANGED_BY_SOMEONE_ELSE")
            else:
                write.park(0.0, "INTERRUPTED")

        if runner.boot != self.boots:
            return
        with suppress(LeaseLost, CaseContradicted):
            self.bench.ledger.fenced(runner.lease, change)

    # Time, and people

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self._pass(seconds)

    @rule()
    def reboot(self) -> None:
        """Every runner is gone with the machine, and the clock begins anew; what was sent is still on its way."""
        self.boots += 1
        self.clock.epoch, self.clock.seconds = f"boot {self.boots}", 3.0

    @rule(number=st.integers(0, SUBJECTS - 1))
    def decide(self, number: int) -> None:
        """A person looks on the other side, once nothing can arrive any more."""
        case_id = self.cases[number]
        case = self.bench.case(case_id)
        pending = any(one.thing[0] == case_id and one.applied is None for one in self.requests)
        if case.status is not CaseStatus.ATTENTION or pending:
            return
        step = case.contradicted or next((n for n, s in case.steps.items() if s.status is StepStatus.UNKNOWN), None)
        if step is None:
            return
        decision = Decision.APPLIED if self.happened[case_id, step] else Decision.ABSENT
        self.bench.ledger.decide(case_id, Decided(decision, "person", "looked on the other side"), Holds())

    # What must always be so

    @invariant()
    def nothing_happens_twice(self) -> None:
        assert all(count == 1 for count in self.happened.values()), self.happened

    @invariant()
    def the_ledger_says_done_only_of_what_happened(self) -> None:
        for case_id in self.cases:
            case = self.bench.case(case_id)
            for name in (StepName.REGISTRATION, StepName.DEVICE):
                if case.steps[name].status is StepStatus.DONE:
                    assert self.happened[case_id, name] == 1 or case.status is CaseStatus.ATTENTION
            if case.status is CaseStatus.READY:
                assert case.due_at is not None

    @invariant()
    def trails_verify_and_only_grow(self) -> None:
        for case_id in self.cases:
            assert self.bench.ledger.trail_problems(case_id) == []
            trail, before = self.bench.ledger.events(case_id), self.trails.get(case_id, [])
            assert trail[: len(before)] == before
            self.trails[case_id] = trail

    def teardown(self) -> None:
        """Once faults stop, everything comes to rest, and the ledger knows what happened."""
        try:
            self._come_to_rest()
        finally:
            self._stack.close()

    def _come_to_rest(self) -> None:
        self.time_passes(60.0)
        for _ in range(12):
            for number, case_id in enumerate(self.cases):
                self.decide(number)
                if case_id not in self.bench.ledger.find_due(limit=9, now=FAR):
                    continue
                runner = self.take(number)
                if not isinstance(runner, Runner):
                    continue
                self.probe(runner, conclusive=True)
                self.intend(runner)
                self.send(runner)
                self.arrive(0, applied=True)
                self.record(runner, readable=True)
                self.leave(runner)
            self.nothing_happens_twice()
            self.time_passes(60.0)
        for case_id in self.cases:
            case = self.bench.case(case_id)
            assert case.status is CaseStatus.DONE, (case.status, case.reason, self.bench.kinds(case_id))
            assert self.happened[case_id, StepName.REGISTRATION] == self.happened[case_id, StepName.DEVICE] == 1

    def _still_owns(self, runner: Runner) -> bool:
        """As the look right before a send has it: on this machine's clock, never later than the ledger's."""
        (row,) = self.bench.sql("SELECT * FROM onboarding_case WHERE id = :id", id=runner.lease.case_id)
        mine = row["lease_owner"] == runner.lease.owner and row["lease_epoch"] == self.clock.epoch
        return bool(mine and row["lease_until"] > self.clock.seconds)

    def _pass(self, seconds: float) -> None:
        self.now += seconds
        for one in self.requests:
            if one.applied is None and one.until < self.now:
                self._arrive(one, applied=False)  # the vendor keeps its word: nothing is applied later

    def _arrive(self, one: OnItsWay, *, applied: bool) -> None:
        one.applied = applied
        if applied:
            self.happened[one.thing] += 1


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(settings.default, max_examples=25, stateful_step_count=40)
