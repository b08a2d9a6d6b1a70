"""Batches: rows wait encrypted, become cases all at once, and nothing is lost or opened twice however it is interrupted."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection

from onboarding.clocks import utc_now
from onboarding.intake import parse_request
from onboarding.ledger import batches, drafting, releasing
from onboarding.ledger.batch_states import BatchState, RowStanding
from onboarding.ledger.drafting import BadRow, BatchGone, Draft
from onboarding.ledger.ledger import Ledger
from onboarding.ledger.opening import prepare
from onboarding.ledger.states import CaseStatus, StepStatus
from onboarding.ledger.store import CommitUnknown, Store
from onboarding.request import OnboardingRequest
from tests.ledger.bench import ADDRESSES, LEASE_S, OTHER_ADDRESSES, REGISTRATION, Bench
from tests.support.requests import MARKER, PARTICIPANT, example, request

T = TypeVar("T")
R = RowStanding
FILE = "digest of the file"
OTHER_FILE = "digest of another file"
ROWS = 510  # more than one transaction of a release


def wanted(number: int, **changes: Any) -> OnboardingRequest:
    """The example for subject ``number``, each with a device and a registration of its own."""
    content = example(
        **{
            "registration__id": number,
            "subject__subject_id": f"{number:032X}",
            "device__inventory_id": f"{number + 2**64:032X}",
            **changes,
        }
    )
    return OnboardingRequest.model_validate(content)


def drafts(ledger: Ledger, requests: Sequence[OnboardingRequest], first: int = 1) -> list[Draft]:
    return [Draft(at, at + 1, prepare(ledger.key, each)) for at, each in enumerate(requests, start=first)]


def begun(ledger: Ledger, requests: Sequence[OnboardingRequest], bad: Sequence[BadRow] = ()) -> str:
    batch_id = batches.open_batch(ledger, ADDRESSES, actor="tester", name=f"{MARKER}.csv")
    drafting.add_rows(ledger, batch_id, drafts(ledger, requests), bad)
    return batch_id


def released(ledger: Ledger, requests: Sequence[OnboardingRequest], file: str = FILE) -> str:
    return releasing.release(ledger, begun(ledger, requests), file, len(requests))


def standings(ledger: Ledger, batch_id: str) -> list[RowStanding]:
    return [each.standing for each in batches.outcomes(ledger, batch_id)]


def state(ledger: Ledger, batch_id: str) -> BatchState:
    found = batches.batch(ledger, batch_id)
    assert found is not None
    return found.state


def text_of(bench: Bench) -> str:
    return repr(bench.content())


def test_cases_that_a_run_has_not_begun_yet_are_left_to_it_while_it_works_on_others_of_their_batch(
    bench: Bench,
) -> None:
    released(bench.ledger, [wanted(1), wanted(2), wanted(3)])
    first, second, third = bench.ledger.find_due(limit=9)
    bench.park(bench.lease(second), 0)  # it was begun, and waits
    lease = bench.lease(first)
    alone = bench.open()
    assert sorted(bench.ledger.find_due(limit=9)) == sorted([second, alone])
    assert sorted(bench.ledger.find_due(limit=9, batch_id=bench.case(third).batch_id)) == sorted([second, third])
    bench.park(lease, 0)
    assert sorted(bench.ledger.find_due(limit=9)) == sorted([first, second, third, alone])
    bench.lease(first)
    bench.clock.advance(LEASE_S)
    assert third in bench.ledger.find_due(limit=9), "a runner that was killed keeps nobody else away"


def test_rows_are_no_cases_before_their_batch_is_released(bench: Bench) -> None:
    begun(bench.ledger, [wanted(1), wanted(2)])
    assert bench.ledger.cases() == []
    assert bench.sql("SELECT * FROM onboarding_event") == []


def test_a_release_makes_cases_that_are_ready_each_with_its_trail(bench: Bench) -> None:
    batch_id = released(bench.ledger, [wanted(1), wanted(2)])
    cases = bench.ledger.cases(batch_id=batch_id)
    assert {(case.status, case.subject_id) for case in cases} == {
        (CaseStatus.READY, f"{number:032X}") for number in (1, 2)
    }
    for case in cases:
        (entry,) = bench.ledger.events(case.id)
        assert (entry.kind, entry.actor, entry.detail["batch"]) == ("case_opened", "tester", batch_id)
        assert bench.ledger.trail_problems(case.id) == []
        assert [step.status for step in case.steps.values()] == [StepStatus.PENDING] * 4
    assert state(bench.ledger, batch_id) is BatchState.RELEASED


def test_the_cases_of_a_batch_fall_due_in_the_files_order(bench: Bench) -> None:
    batch_id = released(bench.ledger, [wanted(number) for number in (9, 3, 12, 1, 10, 2)])
    in_file = [each.case_id for each in batches.outcomes(bench.ledger, batch_id)]
    assert bench.ledger.find_due(limit=9) == in_file


def test_rows_whose_case_is_done_can_be_told_from_the_others(bench: Bench) -> None:
    batch_id = begun(bench.ledger, [wanted(1), wanted(2), wanted(3)], [BadRow(4, 5, ("no",))])
    releasing.release(bench.ledger, batch_id, FILE, 4)
    assert not batches.counts(bench.ledger, batch_id).all_done
    bench.finish(bench.lease(bench.ledger.find_due(limit=9)[1]))
    assert [row.number for row in batches.outcomes(bench.ledger, batch_id, done=True)] == [2]
    assert [row.number for row in batches.outcomes(bench.ledger, batch_id, done=False)] == [1, 3, 4]


def test_a_batch_is_all_done_once_each_of_its_cases_is(bench: Bench) -> None:
    batch_id = released(bench.ledger, [wanted(1), wanted(2)])
    for case_id in bench.ledger.find_due(limit=9):
        assert not batches.counts(bench.ledger, batch_id).all_done
        bench.finish(bench.lease(case_id))
    assert batches.counts(bench.ledger, batch_id).all_done


def test_a_case_of_a_batch_is_worked_like_any_other(bench: Bench) -> None:
    batch_id = released(bench.ledger, [wanted(1)])
    (case_id,) = bench.ledger.find_due(batch_id=batch_id, limit=5)
    lease = bench.lease(case_id)
    assert bench.ledger.request(case_id).subject.subject_id == f"{1:032X}"
    bench.finish(lease)
    assert batches.counts(bench.ledger, batch_id).of(CaseStatus.DONE) == 1


def test_personal_data_is_nowhere_in_the_clear(bench: Bench) -> None:
    content = example(registration__participant=PARTICIPANT)
    bad = BadRow(2, 3, (f"{MARKER}: is not a known key",))
    batch_id = begun(bench.ledger, [parse_request(content)], [bad])
    assert MARKER not in text_of(bench)
    releasing.release(bench.ledger, batch_id, FILE, 2)
    assert MARKER not in text_of(bench)
    (case,) = bench.ledger.cases()
    participant = bench.ledger.request(case.id).registration
    assert participant is not None
    assert MARKER in repr(participant.model_dump())
    found = batches.batch(bench.ledger, batch_id)
    assert found is not None
    assert found.name == f"{MARKER}.csv"
    assert [each.problems for each in batches.outcomes(bench.ledger, batch_id)] == [(), bad.problems]


def test_nothing_of_a_request_stays_in_the_batch_once_it_is_released(bench: Bench) -> None:
    released(bench.ledger, [wanted(1), wanted(1)])
    rows = bench.sql("SELECT request_sealed, section_digests FROM onboarding_batch_row")
    assert rows == [{"request_sealed": None, "section_digests": None}] * 2


def test_two_rows_that_ask_for_the_very_same_are_one_case(bench: Bench) -> None:
    batch_id = released(bench.ledger, [wanted(1), wanted(2), wanted(1)])
    found = list(batches.outcomes(bench.ledger, batch_id))
    assert [each.standing for each in found] == [R.OPENED, R.OPENED, R.REPEATED]
    assert (found[2].same_as, found[2].case_id) == (1, found[0].case_id)
    assert len(bench.ledger.cases()) == 2
    assert sum(batches.counts(bench.ledger, batch_id).cases.values()) == 2


@pytest.mark.parametrize("done_before", ["it was read in", "it was released"])
def test_a_row_whose_case_is_done_at_other_systems_is_left_out(bench: Bench, done_before: str) -> None:
    requests = [wanted(1), wanted(2), wanted(1)]
    lease = bench.open_and_lease(wanted(1))
    if done_before == "it was read in":
        bench.finish(lease)
    batch_id = batches.open_batch(bench.ledger, OTHER_ADDRESSES, actor="tester")
    refused = drafting.add_rows(bench.ledger, batch_id, drafts(bench.ledger, requests))
    assert [bad.number for bad in refused] == ([1, 3] if done_before == "it was read in" else [])
    if done_before == "it was released":
        bench.finish(lease)
    releasing.release(bench.ledger, batch_id, FILE, 3)
    found = list(batches.outcomes(bench.ledger, batch_id))
    assert [each.standing for each in found] == [R.LEFT_OUT, R.OPENED, R.LEFT_OUT]
    assert f"case {lease.case_id} onboarded this subject at other systems" in found[0].problems[0]
    assert [each.case_id for each in found if each.standing is R.LEFT_OUT] == [None, None]


@pytest.mark.parametrize("at_once", [True, False])
def test_two_rows_that_ask_for_one_onboarding_differently_are_both_left_out(bench: Bench, at_once: bool) -> None:
    requests = [wanted(1), wanted(2), wanted(1), wanted(1, registration__ppid="OTHER"), wanted(1)]
    rows = drafts(bench.ledger, requests)
    batch_id = batches.open_batch(bench.ledger, ADDRESSES, actor="tester")
    found: list[BadRow] = []
    for some in [rows] if at_once else [[row] for row in rows]:
        found += drafting.add_rows(bench.ledger, batch_id, some)
    assert sorted(each.number for each in found) == [1, 3, 4, 5]
    releasing.release(bench.ledger, batch_id, FILE, 5)
    outcomes = list(batches.outcomes(bench.ledger, batch_id))
    assert [each.standing for each in outcomes] == [R.LEFT_OUT, R.OPENED, R.LEFT_OUT, R.LEFT_OUT, R.LEFT_OUT]
    assert "row in line 5" in outcomes[0].problems[0]
    assert "row in line 2" in outcomes[3].problems[0]
    assert "same as the one in line 2" in outcomes[4].problems[0]


def test_a_row_whose_case_stands_finds_it(bench: Bench) -> None:
    case_id = bench.open(wanted(1))
    before = bench.ledger.events(case_id)
    batch_id = released(bench.ledger, [wanted(1), wanted(2), wanted(1)])
    found = list(batches.outcomes(bench.ledger, batch_id))
    assert [each.standing for each in found] == [R.FOUND, R.OPENED, R.REPEATED]
    assert [found[0].case_id, found[2].case_id] == [case_id, case_id]
    assert bench.ledger.events(case_id) == before
    assert case_id in bench.ledger.find_due(batch_id=batch_id, limit=5)


def test_the_cases_of_a_batch_are_those_that_it_asks_for_whoever_opened_them(bench: Bench) -> None:
    alone, elsewhere = bench.open(wanted(1)), bench.open(wanted(9))
    first = released(bench.ledger, [wanted(1), wanted(2)])
    second = released(bench.ledger, [wanted(2), wanted(3)], OTHER_FILE)
    asked = {each.case_id for each in batches.outcomes(bench.ledger, first)}
    assert alone in asked
    assert {case.id for case in bench.ledger.cases(batch_id=first)} == asked
    found = {case.id: case.batch_id for case in bench.ledger.cases(batch_id=second)}
    assert sorted(found.values(), key=str) == sorted([first, second], key=str)
    assert {alone, elsewhere}.isdisjoint(found)


def test_a_changed_row_replaces_what_was_not_sent_when_it_is_released_and_no_sooner(bench: Bench) -> None:
    case_id = bench.open(wanted(1))
    batch_id = begun(bench.ledger, [wanted(1, registration__ppid="NEW"), wanted(1, registration__ppid="NEW")])
    assert bench.kinds(case_id) == ["case_opened"]
    releasing.release(bench.ledger, batch_id, FILE, 1)
    assert standings(bench.ledger, batch_id) == [R.REPLACED, R.REPEATED]
    assert bench.kinds(case_id) == ["case_opened", "request_replaced"]
    registration = bench.ledger.request(case_id).registration
    assert registration is not None
    assert registration.ppid == "NEW"


def test_a_changed_row_whose_section_was_sent_is_that_rows_problem(bench: Bench) -> None:
    lease = bench.open_and_lease(wanted(1))
    bench.bring(lease, REGISTRATION, StepStatus.DONE)
    bench.park(lease)
    batch_id = batches.open_batch(bench.ledger, ADDRESSES, actor="tester")
    found = drafting.add_rows(bench.ledger, batch_id, drafts(bench.ledger, [wanted(1, registration__ppid="NEW")]))
    assert [each.number for each in found] == [1]
    assert lease.case_id in found[0].problems[0]


def test_a_case_that_was_taken_between_reading_and_release_leaves_its_row_out_and_releases_the_rest(
    bench: Bench,
) -> None:
    lease_of = bench.open(wanted(1))
    changed = wanted(1, registration__ppid="NEW")
    batch_id = begun(bench.ledger, [changed, wanted(2), changed])
    bench.lease(lease_of)
    releasing.release(bench.ledger, batch_id, FILE, 3)
    found = list(batches.outcomes(bench.ledger, batch_id))
    assert [each.standing for each in found] == [R.LEFT_OUT, R.OPENED, R.LEFT_OUT]
    assert "a runner is working on the case right now" in found[0].problems[0]


def test_a_rejected_batch_leaves_no_request_and_no_case(bench: Bench) -> None:
    batch_id = begun(bench.ledger, [wanted(1), wanted(2), wanted(1)], [BadRow(4, 5, ("a: is wrong",))])
    batches.reject(bench.ledger, batch_id)
    assert [each.number for each in batches.outcomes(bench.ledger, batch_id)] == [4]
    assert (bench.ledger.cases(), state(bench.ledger, batch_id)) == ([], BatchState.REJECTED)
    with pytest.raises(BatchGone):
        releasing.release(bench.ledger, batch_id, FILE, 4)


def test_what_is_abandoned_is_swept_after_a_day(bench: Bench) -> None:
    abandoned = begun(bench.ledger, [wanted(1)])
    kept = released(bench.ledger, [wanted(2)])
    day = timedelta(days=1)
    assert batches.sweep(bench.ledger, now=utc_now() + day - timedelta(minutes=1)) == []
    assert batches.sweep(bench.ledger, now=utc_now() + day) == [abandoned]
    assert [row["id"] for row in bench.sql("SELECT id FROM onboarding_batch")] == [kept]
    assert [row["batch_id"] for row in bench.sql("SELECT batch_id FROM onboarding_batch_row")] == [kept]
    for number in (3, 2):  # a case of its own, and one that stands
        with pytest.raises(BatchGone):
            drafting.add_rows(bench.ledger, abandoned, drafts(bench.ledger, [wanted(number)]))


def test_the_same_file_again_is_the_same_batch(bench: Bench) -> None:
    first = released(bench.ledger, [wanted(1)])
    again = begun(bench.ledger, [wanted(1)])
    assert releasing.release(bench.ledger, again, FILE, 1) == first
    assert state(bench.ledger, again) is BatchState.FILLING
    found = batches.batch_of_file(bench.ledger, FILE)
    assert found is not None
    assert found.id == first
    assert batches.batch_of_file(bench.ledger, OTHER_FILE) is None


def test_of_two_who_release_the_same_file_at_once_one_wins(bench: Bench, another_bench: Callable[..., Bench]) -> None:
    ledgers = [bench.ledger, another_bench().ledger]
    begun_by = [begun(ledger, [wanted(number) for number in range(1, 30)]) for ledger in ledgers]
    start = Barrier(2)

    def release(ledger: Ledger, batch_id: str) -> str:
        start.wait(30)
        return releasing.release(ledger, batch_id, FILE, 29)

    with ThreadPoolExecutor(2) as threads:
        winners = set(threads.map(release, ledgers, begun_by))
    assert len(winners) == 1
    assert len(bench.ledger.cases()) == 29
    assert standings(bench.ledger, winners.pop()) == [R.OPENED] * 29


@pytest.mark.postgres
def test_a_file_that_is_being_released_by_somebody_else_is_theirs(postgres_bench: Bench) -> None:
    bench = postgres_bench
    theirs, ours = (begun(bench.ledger, [wanted(1)]) for _ in range(2))
    with bench.engine.connect() as somebody, ThreadPoolExecutor(1) as thread:
        said = "UPDATE onboarding_batch SET state = 'releasing', file_digest = %s, rows = 1 WHERE id = %s"
        somebody.exec_driver_sql(said, (FILE, theirs))
        released = thread.submit(releasing.release, bench.ledger, ours, FILE, 1)
        bench.until_it_waits(released)
        somebody.commit()
        assert released.result(30) == theirs
    assert standings(bench.ledger, theirs) == [R.OPENED]


class Meeting(Store):
    """A store that lets somebody else in right before its n-th write."""

    def __init__(self, url: str, clock: Any, nth: int, somebody: Callable[[], None]) -> None:
        super().__init__(url, clock=clock)
        self.left, self.somebody = nth, somebody

    def write(self, change: Callable[[Connection], T]) -> T:
        self.left -= 1
        if self.left == 0:
            self.somebody()
        return super().write(change)


@pytest.mark.parametrize("nth", [1, 2])
def test_a_changed_row_that_somebody_else_replaced_just_now_is_not_replaced_again(bench: Bench, nth: int) -> None:
    case_id = bench.open(wanted(1))
    batch_id = begun(bench.ledger, [wanted(1, registration__ppid="NEW")])
    killed = dying(bench, writes=1)
    with pytest.raises(Killed):
        releasing.release(killed, batch_id, FILE, 1)
    killed.close()
    url = bench.ledger.store.url.render_as_string(hide_password=False)
    store = Meeting(url, bench.clock, nth, lambda: releasing.finish_release(bench.ledger, batch_id))
    releasing.finish_release(Ledger(store, bench.ledger.key), batch_id)
    store.close()
    assert bench.kinds(case_id) == ["case_opened", "request_replaced"]
    assert standings(bench.ledger, batch_id) == [R.REPLACED]


def test_a_batch_that_was_released_meanwhile_is_not_rejected(bench: Bench) -> None:
    batch_id = released(bench.ledger, [wanted(1), wanted(2)])
    batches.reject(bench.ledger, batch_id)
    assert state(bench.ledger, batch_id) is BatchState.RELEASED
    assert standings(bench.ledger, batch_id) == [R.OPENED, R.OPENED]


def test_rows_of_which_none_can_be_kept_are_no_transaction_of_their_own(bench: Bench) -> None:
    batch_id = begun(bench.ledger, [])
    assert batches.batch_of_file(bench.ledger, batches.file_digest(bench.ledger, "0" * 64)) is None
    assert standings(bench.ledger, batch_id) == []


def test_two_who_finish_the_same_release_at_once_open_each_case_once(
    bench: Bench, another_bench: Callable[..., Bench]
) -> None:
    batch_id = begun(bench.ledger, [wanted(number) for number in range(1, ROWS + 1)])
    ledger = dying(bench, writes=1)
    with pytest.raises(Killed):
        releasing.release(ledger, batch_id, FILE, ROWS)
    ledger.close()
    start = Barrier(2)

    def finish(ledger: Ledger) -> None:
        start.wait(30)
        releasing.finish_release(ledger, batch_id)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(finish, [bench.ledger, another_bench().ledger]))
    assert batches.counts(bench.ledger, batch_id).rows == {R.OPENED: ROWS}
    assert state(bench.ledger, batch_id) is BatchState.RELEASED


def test_due_cases_of_a_batch_are_its_own_and_come_in_pieces(bench: Bench) -> None:
    bench.open(wanted(9))
    batch_id = released(bench.ledger, [wanted(number) for number in (1, 2, 3)])
    due = bench.ledger.find_due(batch_id=batch_id, limit=2)
    assert len(due) == 2
    for case_id in due:
        bench.lease(case_id)
    rest = bench.ledger.find_due(batch_id=batch_id, limit=2)
    assert len(rest) == 1
    assert not set(rest) & set(due)
    another = released(bench.ledger, [wanted(number) for number in (4, 5)], "another file")
    assert len(bench.ledger.find_due(batch_id=another, limit=9)) == 2
    assert bench.ledger.find_due(batch_id=batch_id, limit=2, modes=["active"]) == []


def test_counts_tell_statuses_with_their_reasons(bench: Bench) -> None:
    batch_id = released(bench.ledger, [wanted(number) for number in (1, 2, 3, 4)])
    waits, fails, ends, _ = [bench.lease(case.id) for case in bench.ledger.cases(batch_id=batch_id)]
    bench.park(waits, 60)
    bench.need_attention(fails)
    bench.finish(ends)
    counts = batches.counts(bench.ledger, batch_id)
    assert counts.cases == {
        (CaseStatus.READY, "LATER"): 1,
        (CaseStatus.READY, None): 1,
        (CaseStatus.ATTENTION, "LOOK"): 1,
        (CaseStatus.DONE, None): 1,
    }
    assert counts.rows == {R.OPENED: 4}


def test_outcomes_come_in_the_order_of_the_file_however_many(bench: Bench) -> None:
    batch_id = released(bench.ledger, [wanted(number) for number in range(1, 2 * ROWS + 1)])
    assert [each.number for each in batches.outcomes(bench.ledger, batch_id)] == list(range(1, 2 * ROWS + 1))


# Interruptions


class Killed(BaseException):
    """The process ended here."""


class DyingStore(Store):
    """A store whose process is killed at its n-th write: before the commit, after it, or while asking for it."""

    def __init__(self, url: str, clock: Any, writes: int, how: str) -> None:
        super().__init__(url, clock=clock)
        self.left, self.how = writes, how

    def write(self, change: Callable[[Connection], T]) -> T:
        self.left -= 1
        if self.left < 0 and self.how == "before":
            raise Killed
        result = super().write(change)
        if self.left < 0:
            raise CommitUnknown("asked") if self.how == "unknown" else Killed
        return result


def dying(bench: Bench, writes: int, how: str = "before") -> Ledger:
    return Ledger(
        DyingStore(bench.ledger.store.url.render_as_string(hide_password=False), bench.clock, writes, how),
        bench.ledger.key,
    )


def whole_intake(ledger: Ledger, requests: Sequence[OnboardingRequest]) -> str:
    batch_id = batches.open_batch(ledger, ADDRESSES, actor="tester")
    for start in range(0, len(requests), 300):
        drafting.add_rows(ledger, batch_id, drafts(ledger, requests[start : start + 300], start + 1))
    return releasing.release(ledger, batch_id, FILE, len(requests))


@pytest.mark.parametrize("how", ["before", "after", "unknown"])
def test_an_intake_that_is_killed_at_any_commit_is_the_same_when_it_is_run_again(bench: Bench, how: str) -> None:
    standing = bench.open(wanted(1))
    requests = [wanted(1, registration__ppid="NEW"), *(wanted(number) for number in range(2, ROWS))]
    interrupted = 0
    while True:
        ledger = dying(bench, interrupted, how)
        try:
            batch_id = whole_intake(ledger, requests)
            break
        except (Killed, CommitUnknown):
            interrupted += 1
        finally:
            ledger.close()
    assert interrupted >= 5
    assert batches.counts(bench.ledger, batch_id).rows == {R.REPLACED: 1, R.OPENED: ROWS - 2}
    assert len(bench.sql("SELECT id FROM onboarding_case")) == ROWS - 1
    assert len(bench.sql("SELECT case_id FROM onboarding_event")) == ROWS
    assert bench.kinds(standing) == ["case_opened", "request_replaced"]
    assert state(bench.ledger, batch_id) is BatchState.RELEASED
    released_batches = bench.sql("SELECT id FROM onboarding_batch WHERE state <> 'filling'")
    assert [row["id"] for row in released_batches] == [batch_id]


def test_a_release_that_was_interrupted_is_finished_by_whoever_starts_next(bench: Bench) -> None:
    batch_id = begun(bench.ledger, [wanted(number) for number in range(1, ROWS + 1)])
    ledger = dying(bench, writes=1, how="after")
    with pytest.raises(Killed):
        releasing.release(ledger, batch_id, FILE, ROWS)
    ledger.close()
    opened = len(bench.ledger.cases())
    assert 0 < opened < ROWS
    assert releasing.finish_releases(bench.ledger) == [batch_id]
    assert releasing.finish_releases(bench.ledger) == []
    assert len(bench.ledger.cases()) == ROWS


@pytest.mark.parametrize("writes", range(4))
def test_a_rejection_that_was_interrupted_is_swept(bench: Bench, writes: int) -> None:
    batch_id = begun(bench.ledger, [wanted(number) for number in range(1, 5)])
    ledger = dying(bench, writes, "after")
    try:
        batches.reject(ledger, batch_id)
    except Killed:
        pass
    finally:
        ledger.close()
    batches.sweep(bench.ledger, now=utc_now() + timedelta(days=2))
    assert bench.sql("SELECT * FROM onboarding_batch_row") == []
    assert bench.ledger.cases() == []


def test_leases_of_others_survive_an_intake(bench: Bench, another_bench: Callable[..., Bench]) -> None:
    lease = bench.open_and_lease(request())
    requests = [wanted(number) for number in range(1, 2 * ROWS)]
    other = another_bench().ledger
    with ThreadPoolExecutor(1) as thread:
        taking = thread.submit(whole_intake, other, requests)
        renewed = 0
        while not taking.done():
            bench.ledger.renew(lease)
            renewed += 1
        taking.result()
    assert renewed > 3
