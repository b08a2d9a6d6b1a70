"""Many cases in one transaction: one commit, and what is wrong with one case is that case's alone."""

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine, event

from onboarding.errors import BadInput, CaseContradicted, IdentityConflict, LeaseLost, LedgerError
from onboarding.ledger.async_ledger import AsyncLedger
from onboarding.ledger.claims import ClaimKey, ClaimKind, ExceptionClaim, take_claims
from onboarding.ledger.leasing import Runner
from onboarding.ledger.ledger import Ledger
from onboarding.ledger.states import CaseStatus, StepStatus
from onboarding.ledger.store import CommitUnknown, Store, StoreBusy, StoreGone, StoreUnavailable
from onboarding.ledger.together import ALONE, WORTH_PREPARING, Begun, Fenced, Taking
from onboarding.ledger.views import Held
from onboarding.ledger.writes import CaseWrite, Lease
from tests.ledger.bench import (
    ADDRESSES,
    DEVICE,
    DISPENSATION,
    INTENT,
    LEASE_S,
    REGISTRATION,
    Bench,
    applied,
    other_subject,
    registration_claim,
)
from tests.support.commits import commits

RUNNER = Runner("runner", LEASE_S)


def cases(bench: Bench, count: int) -> list[str]:
    return [
        bench.open(other_subject(f"{number:032X}", device__inventory_id=f"{number:032X}")) for number in range(count)
    ]


def leases(bench: Bench, count: int) -> list[Lease]:
    taken = bench.together([Taking(case_id, RUNNER, ADDRESSES) for case_id in cases(bench, count)])
    assert all(isinstance(lease, Lease) for lease in taken)
    return taken


def register(write: CaseWrite) -> None:
    applied(write.step(REGISTRATION))


@contextmanager
def holding(bench: Bench, *case_ids: str) -> Iterator[None]:
    """Somebody else's transaction has these cases' rows locked."""
    with bench.engine.connect() as somebody:
        for case_id in case_ids:
            somebody.exec_driver_sql(f"SELECT 1 FROM onboarding_case WHERE id = '{case_id}' FOR UPDATE")
        yield


def test_many_cases_are_taken_and_written_with_one_commit_each(bench: Bench) -> None:
    opened = cases(bench, 20)
    with commits() as seen:
        taken = bench.together([Taking(case_id, RUNNER, ADDRESSES) for case_id in opened])
        assert len(seen) == 1
        bench.together([Fenced(lease, register) for lease in taken])
        assert len(seen) == 2
    for case_id in opened:
        assert bench.step(case_id, REGISTRATION).status is StepStatus.DONE
        assert bench.ledger.trail_problems(case_id) == []


def test_each_result_stands_where_its_work_stood(bench: Bench) -> None:
    held = leases(bench, 3)
    works = [Fenced(lease, lambda write: write.lease.case_id) for lease in held]
    assert bench.together(works) == [lease.case_id for lease in held]


def test_a_lost_fence_fails_its_own_case_only(bench: Bench) -> None:
    first, lost, last = leases(bench, 3)
    bench.clock.advance(LEASE_S + 1)
    bench.lease(lost.case_id)
    done = bench.together([Fenced(lease, register) for lease in (first, lost, last)])
    assert [type(one) for one in done] == [type(None), LeaseLost, type(None)]
    statuses = [bench.step(lease.case_id, REGISTRATION).status for lease in (first, lost, last)]
    assert statuses == [StepStatus.DONE, StepStatus.PENDING, StepStatus.DONE]


def test_a_part_that_raises_halfway_leaves_nothing_of_its_own(bench: Bench) -> None:
    good, bad = leases(bench, 2)

    def halfway(write: CaseWrite) -> None:
        take_claims(write, [registration_claim("subject")])
        register(write)
        raise ZeroDivisionError

    before = bench.ledger.events(bad.case_id)
    done = bench.together([Fenced(bad, halfway), Fenced(good, register)])
    assert isinstance(done[0], ZeroDivisionError)
    assert bench.ledger.events(bad.case_id) == before
    assert bench.step(bad.case_id, REGISTRATION).status is StepStatus.PENDING
    assert (bench.claim("registration 1")["state"], bench.claim("registration 1")["holder_case"]) == ("free", None)
    assert bench.step(good.case_id, REGISTRATION).status is StepStatus.DONE
    assert bench.ledger.fenced(bad, lambda write: write.step(REGISTRATION).status) is StepStatus.PENDING


def test_what_the_database_refuses_of_one_case_is_not_refused_to_the_others(bench: Bench) -> None:
    good, bad = leases(bench, 2)

    def impossible(write: CaseWrite) -> None:
        write.step(REGISTRATION).found({})
        write.step(REGISTRATION).row["status"] = "no such status"

    done = bench.together([Fenced(bad, impossible), Fenced(good, register)])
    assert isinstance(done[0], Exception)
    assert bench.step(bad.case_id, REGISTRATION).status is StepStatus.PENDING
    assert bench.step(good.case_id, REGISTRATION).status is StepStatus.DONE


def test_a_late_answer_that_says_otherwise_stops_its_own_case_only(bench: Bench) -> None:
    good, contradicted = leases(bench, 2)
    answer = {"step": "registration", "attempt": 1, "fence": 1, "says": "applied", "code": "UPDATED"}
    bench.ledger.keep_late_answer(contradicted.case_id, "runner", answer)
    done = bench.together([Fenced(lease, register) for lease in (contradicted, good)])
    assert isinstance(done[0], CaseContradicted)
    assert bench.case(contradicted.case_id).status is CaseStatus.ATTENTION
    assert bench.step(good.case_id, REGISTRATION).status is StepStatus.DONE


def test_two_writes_to_one_case_see_each_other(bench: Bench) -> None:
    (lease,) = leases(bench, 1)
    works: list[Fenced[Any]] = [Fenced(lease, register), Fenced(lease, lambda write: write.step(REGISTRATION).status)]
    assert bench.together(works) == [None, StepStatus.DONE]
    assert bench.ledger.trail_problems(lease.case_id) == []


def test_what_one_case_takes_another_finds_taken_in_the_same_transaction(bench: Bench) -> None:
    first, second = leases(bench, 2)
    claim = registration_claim("A")

    def of(bound_to: str) -> Callable[[CaseWrite], Held | None]:
        return lambda write: take_claims(write, [registration_claim(bound_to)])

    works = [Fenced(first, of("A"), [claim]), Fenced(second, of("B"), [claim]), Fenced(second, of("A"), [claim])]
    taken, refused, held = bench.together(works)
    assert taken is None
    assert isinstance(refused, IdentityConflict)
    assert isinstance(held, Held)
    assert bench.claim("registration 1")["holder_case"] == first.case_id


def test_what_one_case_settles_another_finds_settled_in_the_same_transaction(bench: Bench) -> None:
    first, second = leases(bench, 2)
    claim = registration_claim("A")
    bench.ledger.fenced(first, lambda write: take_claims(write, [claim]))
    works: list[Fenced[Any]] = [Fenced(first, register), Fenced(second, lambda write: take_claims(write, [claim]))]
    assert bench.together(works) == [None, None]
    row = bench.claim("registration 1")
    assert (row["state"], row["holder_case"], row["effect_id"]) == ("done", second.case_id, first.case_id)


def test_steps_that_end_in_one_write_settle_the_claims_of_each(bench: Bench) -> None:
    (lease,) = leases(bench, 1)
    inventory = ClaimKey(ClaimKind.INVENTORY, "inventory 1", "A")
    bench.ledger.fenced(lease, lambda write: take_claims(write, [registration_claim("A"), inventory]))

    def all_of_it(write: CaseWrite) -> None:
        register(write)
        write.step(DISPENSATION).found({})
        applied(write.step(DEVICE))

    bench.ledger.fenced(lease, all_of_it)
    assert [bench.claim(key)["state"] for key in ("registration 1", "inventory 1")] == ["done", "done"]


def test_a_claim_that_one_case_leaves_unknown_is_held_for_the_next_in_the_same_transaction(bench: Bench) -> None:
    first, second = leases(bench, 2)
    claim = registration_claim("A")
    bench.ledger.fenced(first, lambda write: take_claims(write, [claim]))

    def leave_unknown(write: CaseWrite) -> None:
        write.step(REGISTRATION).intend(INTENT)
        write.step(REGISTRATION).inconclusive("CHANGED_BY_SOMEONE_ELSE")

    works: list[Fenced[Any]] = [
        Fenced(first, leave_unknown),
        Fenced(second, lambda write: take_claims(write, [claim]), [claim]),
    ]
    _, held = bench.together(works)
    assert isinstance(held, Held)
    row = bench.claim("registration 1")
    assert (row["state"], row["holder_case"], row["effect_id"]) == ("unknown", first.case_id, None)


def test_a_claim_that_one_case_gives_back_is_as_good_as_new_for_the_next_in_the_same_transaction(bench: Bench) -> None:
    first, second = leases(bench, 2)
    bench.ledger.fenced(first, lambda write: take_claims(write, [registration_claim("A")]))
    claim = registration_claim("B")
    works: list[Fenced[Any]] = [
        Fenced(first, lambda write: write.step(REGISTRATION).refuse("CPR_DUP_PPID")),
        Fenced(second, lambda write: take_claims(write, [claim]), [claim]),
    ]
    assert bench.together(works) == [None, None]
    row = bench.claim("registration 1")
    found = (row["state"], row["holder_case"], row["bound_to"], row["effect_id"])
    assert found == ("held", second.case_id, "B", None)


def test_a_case_whose_lease_is_renewed_in_the_same_transaction_keeps_its_exception(bench: Bench) -> None:
    first, second = leases(bench, 2)

    def take(write: CaseWrite) -> str:
        taken = ExceptionClaim.take(write, "content")
        return taken.by_case if isinstance(taken, Held) else "mine"

    assert bench.ledger.fenced(first, take) == "mine"
    bench.clock.advance(LEASE_S + 1)  # nobody has taken the case since, so it may still be renewed
    assert bench.together([Fenced(first, lambda _write: None), Fenced(second, take)]) == [None, first.case_id]


def test_a_write_sees_the_claim_that_it_took(bench: Bench) -> None:
    (lease,) = leases(bench, 1)

    def take_and_look(write: CaseWrite) -> bool:
        assert isinstance(ExceptionClaim.take(write, "content"), ExceptionClaim)
        return ExceptionClaim.seen(write, "content").is_mine

    assert bench.ledger.fenced(lease, take_and_look)


def test_cases_whose_steps_end_in_one_transaction_settle_the_claims_of_each(bench: Bench) -> None:
    first, second = leases(bench, 2)
    other = ClaimKey(ClaimKind.REGISTRATION, "registration 2", "B")
    bench.ledger.fenced(first, lambda write: take_claims(write, [registration_claim("A")]))
    bench.ledger.fenced(second, lambda write: take_claims(write, [other]))
    bench.together([Fenced(lease, register) for lease in (first, second)])  # which reads no claim
    rows = [bench.claim(key) for key in ("registration 1", "registration 2")]
    assert [(row["state"], row["effect_id"]) for row in rows] == [("done", first.case_id), ("done", second.case_id)]


def test_sqlite_looks_claims_up_instead_of_through_all_of_them(sqlite_bench: Bench) -> None:
    said: list[tuple[str, Any]] = []

    def note(_c: Any, _k: Any, statement: str, values: Any, *_: Any) -> None:
        if "FROM onboarding_claim" in statement:
            said.append((statement, values))

    (lease,) = leases(sqlite_bench, 1)
    keys = [ClaimKey(ClaimKind.INVENTORY, f"inventory {number}", "A") for number in range(3)]
    event.listen(Engine, "before_cursor_execute", note)
    try:
        sqlite_bench.ledger.fenced(lease, lambda write: take_claims(write, keys), claims=keys)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    statement, values = said[0]
    with sqlite_bench.engine.connect() as connection:
        plan = [row.detail for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
    assert any(line.startswith("SEARCH onboarding_claim USING") for line in plan), plan


def test_a_case_that_is_not_there_is_nobodys_to_write(bench: Bench) -> None:
    (lease,) = leases(bench, 1)
    with pytest.raises(LeaseLost):
        bench.ledger.fenced(replace(lease, case_id="NONE", case=None), register)


def test_a_claim_taken_and_settled_in_one_write_stands_as_settled(bench: Bench) -> None:
    (lease,) = leases(bench, 1)

    def change(write: CaseWrite) -> None:
        take_claims(write, [registration_claim("A")])
        write.step(REGISTRATION).refuse("CPR_DUP_PPID")

    bench.ledger.fenced(lease, change)
    row = bench.claim("registration 1")
    assert (row["state"], row["holder_case"]) == ("free", None)


def test_an_exception_goes_from_case_to_case_in_one_transaction(bench: Bench) -> None:
    first, second = leases(bench, 2)

    def through(write: CaseWrite) -> str | None:
        claim = ExceptionClaim.take(write, "content")
        assert isinstance(claim, ExceptionClaim)
        found = claim.view().effect_id
        claim.adopt("E1", [])
        claim.give_back()
        return found

    assert bench.together([Fenced(first, through), Fenced(second, through)]) == [None, "E1"]


def test_an_exception_that_a_case_holds_is_held_for_the_next_in_the_same_transaction(bench: Bench) -> None:
    first, second = leases(bench, 2)

    def take(write: CaseWrite) -> str:
        taken = ExceptionClaim.take(write, "content")
        return taken.by_case if isinstance(taken, Held) else "mine"

    works = [Fenced(first, take), Fenced(second, take)]
    assert bench.together(works) == ["mine", first.case_id]
    with_it = bench.ledger.fenced(first, lambda write: ExceptionClaim.seen(write, "content").is_mine)
    without = bench.ledger.fenced(second, lambda write: ExceptionClaim.seen(write, "content").is_mine)
    assert (with_it, without) == (True, False)


def test_a_claim_is_settled_once_its_id_is_known_and_nothing_is_open(bench: Bench) -> None:
    (lease,) = leases(bench, 1)

    def settled(move: Callable[[ExceptionClaim], Any]) -> bool:
        def change(write: CaseWrite) -> bool:
            claim = ExceptionClaim.seen(write, "content")
            move(claim)
            return claim.view().settled

        return bench.ledger.fenced(lease, change)

    assert not settled(lambda _claim: None)
    assert not settled(lambda claim: claim.intend(INTENT))
    assert settled(lambda claim: claim.adopt("E1", []))
    assert not settled(lambda claim: claim.call_unknown())


def test_a_case_that_is_not_there_does_not_keep_others_from_being_taken(bench: Bench) -> None:
    (there,) = cases(bench, 1)
    missing, taken = bench.together([Taking(case_id, RUNNER, ADDRESSES) for case_id in ("NONE", there)])
    assert isinstance(missing, LedgerError)
    assert isinstance(taken, Lease)


def test_a_case_of_a_mode_that_is_not_allowed_is_not_taken(bench: Bench) -> None:
    (case_id,) = cases(bench, 1)
    (refused,) = bench.together([Taking(case_id, Runner("r", LEASE_S, modes=("training",)), ADDRESSES)])
    assert isinstance(refused, BadInput)
    assert bench.case(case_id).takings == 0


def test_a_case_of_a_mode_that_is_allowed_is_taken(bench: Bench) -> None:
    (case_id,) = cases(bench, 1)
    (taken,) = bench.together([Taking(case_id, Runner("r", LEASE_S, modes=("test",)), ADDRESSES)])
    assert isinstance(taken, Lease)


def test_a_taken_case_carries_its_request(bench: Bench) -> None:
    held = leases(bench, 3)
    for lease in held:
        assert bench.ledger.request_of(lease) == bench.ledger.request(lease.case_id)


@pytest.mark.postgres
def test_a_case_whose_row_somebody_holds_is_left_to_be_done_alone(postgres_bench: Bench) -> None:
    bench = postgres_bench
    free, locked = leases(bench, 2)
    with holding(bench, locked.case_id):
        done = bench.ledger.work_together([Fenced(lease, register) for lease in (locked, free)])
        assert done == [ALONE, None]
        assert bench.step(free.case_id, REGISTRATION).status is StepStatus.DONE
    assert bench.step(locked.case_id, REGISTRATION).status is StepStatus.PENDING
    assert bench.together([Fenced(locked, register)]) == [None]


@pytest.mark.postgres
def test_a_transaction_given_up_in_a_deadlock_is_done_again(postgres_bench: Bench) -> None:
    bench = postgres_bench
    (lease,) = leases(bench, 1)
    bench.ledger.fenced(lease, lambda write: take_claims(write, [registration_claim("A")]))
    told = threading.Event()

    def change(write: CaseWrite) -> None:
        told.set()
        write.claim("registration", "registration 1")
        register(write)

    with bench.engine.connect() as somebody:
        somebody.exec_driver_sql(
            "SET deadlock_timeout = '60s'"
        )  # so that it is the ledger's transaction that gives way
        somebody.exec_driver_sql("SELECT 1 FROM onboarding_claim FOR UPDATE")
        thread = threading.Thread(target=lambda: bench.ledger.fenced(lease, change))
        thread.start()
        assert told.wait(20)
        somebody.exec_driver_sql(f"SELECT 1 FROM onboarding_case WHERE id = '{lease.case_id}' FOR UPDATE")
        somebody.rollback()
    thread.join(20)
    assert bench.step(lease.case_id, REGISTRATION).status is StepStatus.DONE


@pytest.mark.postgres
def test_after_a_commit_of_unknown_outcome_each_case_is_read_anew(postgres_bench: Bench) -> None:
    bench = postgres_bench
    held = leases(bench, 2)
    new = bench.open(other_subject("F" * 32, device__inventory_id="F" * 32))
    bench.sql(
        "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
    )
    bench.sql(
        "CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON onboarding_event DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION cut()"
    )
    done = bench.together([*(Fenced(lease, register) for lease in held), Taking(new, RUNNER, ADDRESSES)])
    assert [type(one) for one in done] == [CommitUnknown] * 3
    bench.sql("DROP TRIGGER cut ON onboarding_event")
    assert all(lease.known(REGISTRATION) is None for lease in held)
    looked = bench.together([Fenced(lease, lambda write: write.step(REGISTRATION).status) for lease in held])
    assert looked == [StepStatus.PENDING, StepStatus.PENDING]


# What a lease remembers of its steps


def test_a_lease_knows_its_steps_as_the_last_commit_left_them(bench: Bench) -> None:
    (lease,) = leases(bench, 1)
    assert lease.known(REGISTRATION) == bench.step(lease.case_id, REGISTRATION)
    bench.ledger.fenced(lease, lambda write: write.step(REGISTRATION).found({"changed": []}))
    assert lease.known(REGISTRATION) == bench.step(lease.case_id, REGISTRATION)
    assert bench.step(lease.case_id, REGISTRATION).status is StepStatus.DONE


def test_a_lease_does_not_guess_how_long_an_intent_is_quiet_yet(bench: Bench) -> None:
    (lease,) = leases(bench, 1)
    bench.bring(lease, REGISTRATION, StepStatus.OPEN)
    assert lease.known(REGISTRATION) is None
    assert lease.known(DEVICE) is not None


def test_a_lease_knows_a_step_that_is_done_however_long_its_intent_is_quiet_yet(bench: Bench) -> None:
    (lease,) = leases(bench, 1)
    bench.ledger.fenced(lease, register)
    known = lease.known(REGISTRATION)
    assert known is not None
    assert (known.status, known.intent.quiet_left_s) == (StepStatus.DONE, 0)


def test_steps_that_a_lease_does_not_remember_are_read(bench: Bench) -> None:
    (lease,) = leases(bench, 1)
    bench.ledger.fenced(lease, register)
    for step in (DISPENSATION, DEVICE):
        del lease.steps[step]

    def look(write: CaseWrite) -> list[StepStatus]:
        return [write.step(step).status for step in (REGISTRATION, DEVICE)]

    assert bench.ledger.fenced(lease, look) == [StepStatus.DONE, StepStatus.PENDING]


def test_a_transaction_that_always_has_to_give_way_is_given_up(bench: Bench) -> None:
    tried: list[None] = []

    def change(_connection: object) -> None:
        tried.append(None)
        raise StoreBusy("another transaction was preferred")

    with pytest.raises(StoreBusy):
        bench.ledger.store.write(change)
    assert len(tried) == 4


def test_a_database_that_is_out_of_reach_is_asked_once_for_all(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    held = leases(bench, 5)
    patient = Store(bench.ledger.store.url.render_as_string(), clock=bench.clock, busy_seconds=0.3)
    with bench.engine.connect() as somebody:
        somebody.exec_driver_sql("BEGIN IMMEDIATE")
        began = time.monotonic()
        done = Ledger(patient, bench.ledger.key).work_together([Fenced(lease, register) for lease in held])
        took_s = time.monotonic() - began
        somebody.rollback()
    patient.close()
    assert [type(one) for one in done] == [StoreGone] * 5
    assert all("only.db cannot be used" in str(one) for one in done), "each is told what is wrong"
    assert took_s < 5 * 0.3
    assert bench.together([Fenced(lease, register) for lease in held]) == [None] * 5


# The ledger for asyncio


class OneAtATime:
    """Runs each call in a thread once it is let go on, and notes which work went into each transaction."""

    def __init__(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on = asyncio.Event()
        self.asked = asyncio.Event()
        self.begun: list[Sequence[Any]] = []
        self._begin = ledger.begin_together
        monkeypatch.setattr(ledger, "begin_together", self._note)

    def _note(self, works: Sequence[Any], *, wait: bool = False) -> Begun:
        self.begun.append(works)
        return self._begin(works, wait=wait)

    async def __call__(self, call: Callable[..., Any], *arguments: Any) -> Any:
        self.asked.set()
        await self.go_on.wait()
        return await asyncio.to_thread(call, *arguments)


async def test_writes_that_wait_for_a_commit_go_into_the_next_one_together(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = leases(bench, 10)
    threads = OneAtATime(bench.ledger, monkeypatch)
    shared = AsyncLedger(bench.ledger, threads, threads)
    first = asyncio.create_task(shared.fenced(held[0], register))
    await threads.asked.wait()
    rest = [asyncio.create_task(shared.fenced(lease, register)) for lease in held[1:]]
    await asyncio.sleep(0)
    threads.go_on.set()
    await asyncio.gather(first, *rest)
    assert [len(works) for works in threads.begun] == [1, 9]


async def test_renewals_go_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    held = leases(bench, 3)
    threads = OneAtATime(bench.ledger, monkeypatch)
    shared = AsyncLedger(bench.ledger, threads, threads)
    writes = [asyncio.create_task(shared.fenced(lease, register)) for lease in held[:1]]
    await threads.asked.wait()
    writes += [asyncio.create_task(shared.fenced(held[1], register)), asyncio.create_task(shared.renew(held[2]))]
    await asyncio.sleep(0)
    threads.go_on.set()
    await asyncio.gather(*writes)
    assert [work.lease.case_id for works in threads.begun for work in works] == [
        held[0].case_id,
        held[2].case_id,
        held[1].case_id,
    ]


async def later(turns: int, write: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Write after so many turns of the event loop, as whoever has something to work on before it writes."""
    for _ in range(turns):
        await asyncio.sleep(0)
    await write()


async def test_a_write_waits_for_those_whose_turn_in_the_event_loop_is_next(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = leases(bench, 6)
    threads = OneAtATime(bench.ledger, monkeypatch)
    threads.go_on.set()
    shared = AsyncLedger(bench.ledger, threads, threads)
    await asyncio.gather(*(later(turn, partial(shared.fenced, lease, register)) for turn, lease in enumerate(held)))
    assert [len(works) for works in threads.begun] == [len(held)]


async def test_writes_that_come_on_and_on_hold_none_up_for_long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    held = leases(bench, 150)
    threads = OneAtATime(bench.ledger, monkeypatch)
    shared = AsyncLedger(bench.ledger, threads, threads)
    writes = [
        asyncio.create_task(later(turn, partial(shared.fenced, lease, register))) for turn, lease in enumerate(held)
    ]
    await threads.asked.wait()
    assert 1 < len(threads.begun[0]) < len(held) // 2
    threads.go_on.set()
    await asyncio.gather(*writes)


async def test_a_renewal_waits_for_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    held = leases(bench, 10)
    threads = OneAtATime(bench.ledger, monkeypatch)
    shared = AsyncLedger(bench.ledger, threads, threads)
    writes = [
        asyncio.create_task(later(turn, partial(shared.fenced, lease, register))) for turn, lease in enumerate(held[1:])
    ]
    writes.append(asyncio.create_task(later(1, partial(shared.renew, held[0]))))
    await threads.asked.wait()
    assert threads.begun[0][0].case_id == held[0].case_id
    assert len(threads.begun[0]) < 5
    threads.go_on.set()
    await asyncio.gather(*writes)


def test_what_is_computed_without_the_lock_fails_as_what_is_done_under_it(sqlite_bench: Bench) -> None:
    held = leases(sqlite_bench, WORTH_PREPARING)
    sqlite_bench.ledger.store.write(lambda connection: connection.exec_driver_sql("DROP TABLE onboarding_claim"))
    begun = sqlite_bench.ledger.begin_together([Fenced(lease, register, [registration_claim("S1")]) for lease in held])
    assert [type(one) for one in begun.finish()] == [StoreGone] * len(held)


def test_a_write_that_has_ended_does_not_stay_in_memory(bench: Bench) -> None:
    (lease,) = leases(bench, 1)
    written: list[weakref.ref[CaseWrite]] = []

    def change(write: CaseWrite) -> None:
        register(write)
        written.append(weakref.ref(write))

    gc.disable()  # so that only what refers to nothing of itself goes
    try:
        bench.together([Fenced(lease, change)])
        assert [one() for one in written] == [None] * len(written)
    finally:
        gc.enable()


async def test_it_takes_cases_and_keeps_late_answers_like_the_ledger_itself(bench: Bench) -> None:
    first, second = cases(bench, 2)
    shared = AsyncLedger(bench.ledger, asyncio.to_thread, asyncio.to_thread)
    taken = await asyncio.gather(*(shared.take(Taking(case_id, RUNNER, ADDRESSES)) for case_id in (first, second)))
    assert all(isinstance(lease, Lease) for lease in taken)
    assert isinstance(await shared.take(Taking(first, RUNNER, ADDRESSES)), Held)
    answer = {"step": "registration", "attempt": 1, "fence": 1, "says": "applied", "code": "UPDATED"}
    await shared.keep_late_answer(first, "runner", answer)
    assert bench.last_event(first).kind == "late_answer"
    assert await shared.other_claims_with(["content"]) == set()
    assert shared.key is bench.ledger.key


async def test_a_write_whose_waiter_has_gone_is_done_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, stays = leases(bench, 2)
    threads = OneAtATime(bench.ledger, monkeypatch)
    shared = AsyncLedger(bench.ledger, threads, threads)
    writes = [asyncio.create_task(shared.fenced(lease, register)) for lease in (gone, stays)]
    await threads.asked.wait()
    writes[0].cancel()
    threads.go_on.set()
    await writes[1]
    assert bench.step(gone.case_id, REGISTRATION).status is StepStatus.DONE


async def test_each_waiter_gets_what_went_wrong_with_its_own_write(bench: Bench) -> None:
    good, lost = leases(bench, 2)
    bench.clock.advance(LEASE_S + 1)
    bench.lease(lost.case_id)
    shared = AsyncLedger(bench.ledger, asyncio.to_thread, asyncio.to_thread)
    done = await asyncio.gather(*(shared.fenced(lease, register) for lease in (good, lost)), return_exceptions=True)
    assert [type(one) for one in done] == [type(None), LeaseLost]


async def test_a_writer_that_cannot_run_tells_whoever_waits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (lease,) = leases(bench, 1)
    monkeypatch.setattr(bench.ledger.store, "begin_write", lambda _change: None)  # as if somebody else wrote

    async def broken(*_: Any) -> Any:
        raise StoreUnavailable("the ledger is closed")

    shared = AsyncLedger(bench.ledger, broken, broken)
    with pytest.raises(StoreUnavailable):
        await shared.fenced(lease, register)
    with pytest.raises(StoreUnavailable):  # and the next one too, instead of waiting for ever
        await shared.fenced(lease, register)


@pytest.mark.postgres
async def test_a_row_that_is_locked_for_too_long_fails_its_own_case_only(postgres_bench: Bench) -> None:
    bench = postgres_bench
    free, locked = leases(bench, 2)
    url = bench.ledger.store.url.render_as_string(hide_password=False)
    impatient = Store(url, clock=bench.clock, busy_seconds=0.3)
    shared = AsyncLedger(Ledger(impatient, bench.ledger.key), asyncio.to_thread, asyncio.to_thread)
    with holding(bench, locked.case_id):
        done = await asyncio.gather(
            *(shared.fenced(lease, register) for lease in (locked, free)), return_exceptions=True
        )
    impatient.close()
    assert isinstance(done[0], StoreUnavailable)
    assert not isinstance(done[0], StoreGone)
    assert done[1] is None


@pytest.mark.postgres
async def test_a_case_that_waits_for_its_row_keeps_no_other_write_waiting(postgres_bench: Bench) -> None:
    bench = postgres_bench
    locked, *free = leases(bench, 3)
    shared = AsyncLedger(bench.ledger, asyncio.to_thread, asyncio.to_thread)
    with holding(bench, locked.case_id):
        waiting = asyncio.create_task(shared.fenced(locked, register))
        await asyncio.sleep(0)  # it goes first, by itself
        await asyncio.gather(*(shared.fenced(lease, register) for lease in free))
        for lease in free:
            await shared.renew(lease)
        assert not waiting.done()
    await waiting
    assert bench.step(locked.case_id, REGISTRATION).status is StepStatus.DONE


@pytest.mark.postgres
async def test_many_cases_that_wait_for_their_rows_leave_a_thread_for_the_others(postgres_bench: Bench) -> None:
    bench = postgres_bench
    free, *locked = leases(bench, 7)
    with ThreadPoolExecutor(4) as threads:

        async def in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
            return await asyncio.get_running_loop().run_in_executor(threads, call, *arguments)

        shared = AsyncLedger(bench.ledger, in_thread, in_thread)
        with holding(bench, *(lease.case_id for lease in locked)):
            waiting = [asyncio.create_task(shared.fenced(lease, register)) for lease in locked]
            await shared.fenced(free, register)
            for _ in range(3):
                await shared.renew(free)
            assert not any(one.done() for one in waiting)
        await asyncio.gather(*waiting)


@pytest.mark.postgres
async def test_later_writes_of_a_case_that_waits_for_its_row_keep_their_order(postgres_bench: Bench) -> None:
    bench = postgres_bench
    locked, free = leases(bench, 2)
    shared = AsyncLedger(bench.ledger, asyncio.to_thread, asyncio.to_thread)
    done: list[int] = []

    async def write(number: int, change: Callable[[CaseWrite], Any]) -> None:
        await shared.fenced(locked, change)
        done.append(number)

    with holding(bench, locked.case_id):
        writes = [asyncio.create_task(write(0, lambda w: w.step(REGISTRATION).intend(INTENT)))]
        await shared.fenced(free, register)
        writes.append(asyncio.create_task(write(1, lambda w: w.step(REGISTRATION).applied({}, code="UPDATED"))))
        await asyncio.sleep(0.05)  # with nothing else to write
        writes.append(asyncio.create_task(write(2, lambda w: w.step(DISPENSATION).found({}))))
        await shared.renew(free)
        assert done == []
    await asyncio.gather(*writes)
    assert done == [0, 1, 2]
    assert bench.ledger.trail_problems(locked.case_id) == []
    assert locked.steps[DISPENSATION]["status"] == StepStatus.DONE
