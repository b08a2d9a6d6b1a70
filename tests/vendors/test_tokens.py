"""One log-in for all who need it: nobody's bad luck becomes another's."""

import asyncio
import gc

import pytest

from onboarding.clocks import boot_seconds
from onboarding.errors import OPENSPECIMEN, LoginRefused, Unavailable
from onboarding.vendors import Deadline
from onboarding.vendors.tokens import Token, TokenKeeper, safe_token


class LogIns:
    """Log-ins that wait until the test lets them go, and end as it says."""

    def __init__(self) -> None:
        self.count = 0
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.error: Exception | None = None
        self.renew_at = float("inf")

    async def __call__(self) -> Token:
        self.count += 1
        self.begun.set()
        await self.go.wait()
        if self.error is not None:
            raise self.error
        return Token(f"token-{self.count}", self.renew_at)


@pytest.fixture
def log_ins() -> LogIns:
    return LogIns()


@pytest.fixture
def keeper(log_ins: LogIns) -> TokenKeeper:
    return TokenKeeper(OPENSPECIMEN, log_ins)


async def test_concurrent_callers_share_one_log_in(keeper: TokenKeeper, log_ins: LogIns) -> None:
    callers = [asyncio.create_task(keeper.get(Deadline(10))) for _ in range(20)]
    await log_ins.begun.wait()
    log_ins.go.set()
    tokens = await asyncio.gather(*callers)
    assert {token.value for token in tokens} == {"token-1"}
    assert log_ins.count == 1
    assert (await keeper.get(Deadline(10))).value == "token-1"


async def test_a_cancelled_first_caller_takes_nothing_from_the_others(keeper: TokenKeeper, log_ins: LogIns) -> None:
    first = asyncio.create_task(keeper.get(Deadline(10)))
    await log_ins.begun.wait()
    second = asyncio.create_task(keeper.get(Deadline(10)))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    log_ins.go.set()
    assert (await second).value == "token-1"
    assert log_ins.count == 1


async def test_a_caller_without_time_leaves_the_log_in_to_the_others(keeper: TokenKeeper, log_ins: LogIns) -> None:
    patient = asyncio.create_task(keeper.get(Deadline(10)))
    await log_ins.begun.wait()
    with pytest.raises(Unavailable) as caught:
        await keeper.get(Deadline(0.01))
    assert caught.value.code == "DEADLINE_PASSED"
    log_ins.go.set()
    assert (await patient).value == "token-1"


@pytest.mark.parametrize("kind", [LoginRefused, Unavailable])
async def test_a_failed_log_in_is_told_to_all_who_waited_each_with_an_error_of_its_own(
    keeper: TokenKeeper, log_ins: LogIns, kind: type[Unavailable]
) -> None:
    log_ins.error = kind(OPENSPECIMEN, "CODE", "What.", http_status=400, vendor_text="words", retry_after_s=3)
    log_ins.go.set()
    outcomes = await asyncio.gather(*(keeper.get(Deadline(10)) for _ in range(5)), return_exceptions=True)
    assert log_ins.count == 1
    assert len({id(outcome) for outcome in outcomes}) == 5
    for outcome in outcomes:
        assert isinstance(outcome, kind)
        assert (outcome.code, outcome.http_status, outcome.vendor_text, outcome.retry_after_s) == (
            "CODE",
            400,
            "words",
            3,
        )


async def test_after_a_failed_log_in_the_next_caller_tries_again(keeper: TokenKeeper, log_ins: LogIns) -> None:
    log_ins.error = Unavailable(OPENSPECIMEN, "CODE", "What.")
    log_ins.go.set()
    with pytest.raises(Unavailable):
        await keeper.get(Deadline(10))
    log_ins.error = None
    assert (await keeper.get(Deadline(10))).value == "token-2"


async def test_a_fault_of_the_gate_reaches_those_who_wait(keeper: TokenKeeper, log_ins: LogIns) -> None:
    log_ins.error = RuntimeError("the ledger is gone")
    log_ins.go.set()
    with pytest.raises(RuntimeError, match="the ledger is gone"):
        await keeper.get(Deadline(10))


async def test_a_fault_that_nobody_waits_for_any_more_is_not_complained_about(
    keeper: TokenKeeper, log_ins: LogIns
) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    caller = asyncio.create_task(keeper.get(Deadline(10)))
    await log_ins.begun.wait()
    caller.cancel()
    await asyncio.wait({caller})
    log_ins.error = RuntimeError("the ledger is gone")
    log_ins.go.set()
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert complaints == []


async def test_only_the_token_that_was_not_accepted_is_thrown_away(keeper: TokenKeeper, log_ins: LogIns) -> None:
    log_ins.go.set()
    old = await keeper.get(Deadline(10))
    keeper.discard(old)
    new = await keeper.get(Deadline(10))
    keeper.discard(old)
    assert await keeper.get(Deadline(10)) is new
    assert log_ins.count == 2


async def test_a_token_that_must_be_renewed_is_not_handed_out(keeper: TokenKeeper, log_ins: LogIns) -> None:
    log_ins.renew_at = boot_seconds() - 1
    log_ins.go.set()
    await keeper.get(Deadline(10))
    log_ins.renew_at = boot_seconds() + 100
    assert (await keeper.get(Deadline(10))).value == "token-2"
    assert (await keeper.get(Deadline(10))).value == "token-2"


async def test_closing_stops_a_log_in_and_those_who_wait_learn_it(keeper: TokenKeeper, log_ins: LogIns) -> None:
    caller = asyncio.create_task(keeper.get(Deadline(10)))
    await log_ins.begun.wait()
    await keeper.aclose()
    with pytest.raises(Unavailable) as caught:
        await caller
    assert caught.value.code == "CLIENT_CLOSED"


def test_a_token_is_never_shown() -> None:
    assert "secret" not in repr(Token("secret"))


@pytest.mark.parametrize("value", [None, 7, "", "a b", "a\r\nx-other: 1", "é", "x" * 20_000, {"token": "x"}])
def test_what_cannot_go_into_a_header_is_no_token(value: object) -> None:
    assert safe_token(value) is None
