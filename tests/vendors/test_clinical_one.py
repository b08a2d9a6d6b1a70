"""The Clinical One client against a scripted server."""

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import parse_qs, urlsplit

import pytest

from onboarding.clocks import boot_seconds
from onboarding.errors import InDoubt, LoginRefused, NotYet, Refused, Unavailable
from onboarding.request import DndExceptionSection
from onboarding.vendors import (
    ClinicalOneClient,
    ConnectionType,
    Deadline,
    Dispensation,
    HistoryRow,
    InMemoryGate,
    VendorHttp,
    phrases,
)
from onboarding.vendors.clinical_one_token import fetch_token
from tests.vendors.scripted_server import Exchange, Script, ScriptedServer, answers, in_turn, scripted
from tests.vendors.vendor_scripts import C1_TOKEN, CLIENT_SECRET, Vendor, clinical_one, when_all_arrived

STUDY = "1BC29B36F5D64B1B95F4BDBBCEA481BE"
SUBJECT = "0A1B2C3D4E5F67890123456789ABCDEF"
KIT = "B1B8327AFAA6412287106192AB5984EF"
KIT_DASHED = "b1b8327a-faa6-4122-8710-6192ab5984ef"
VISIT = "6AF54DB79B764662B685D68C52AB0B84"
ROOT = f"/ec-ors-svc/rest/v1.0/studies/{STUDY}/test"
M_SUBJECT = "m subject/1&x=ü"
REGISTER_BODY = {"inventoryId": KIT, "mSubjectId": "5C9F4E2D1B0A49E8A7C6D5E4F3B2A190", "subjectNumber": "siteA-1"}
REGISTERED = {"accessId": "ABC123", "id": KIT, "otp": "ABCD1234"}
DND = DndExceptionSection.model_validate(
    {"allCountries": False, "countries": ["US"], "kitTypeSrcId": [KIT], "visitDND": [{"visitSrcId": VISIT, "dnd": 2}]}
)


def failing(status: int, phrase: str) -> Script:
    return answers(status, {"status": "Error", "errorData": {"errorCode": "C1-003", "errorMessage": phrase}})


@pytest.fixture
def vendor() -> Vendor:
    return Vendor()


@pytest.fixture
async def server(vendor: Vendor) -> AsyncIterator[ScriptedServer]:
    async with scripted(vendor) as running:
        yield running


@pytest.fixture
async def client(server: ScriptedServer, http: VendorHttp) -> AsyncIterator[ClinicalOneClient]:
    made = ClinicalOneClient(clinical_one(server.url), http, InMemoryGate())
    yield made
    await made.aclose()


class Calls:
    """Every call with documented arguments."""

    def __init__(self, client: ClinicalOneClient, seconds: float = 10) -> None:
        self._client = client
        self._seconds = seconds

    async def dispensation(self) -> Dispensation | None:
        return await self._client.dispensation(STUDY, "test", KIT_DASHED, deadline=Deadline(self._seconds))

    async def history(self) -> list[HistoryRow]:
        now = datetime(2026, 11, 21, 14, 5, 6, 789_999, tzinfo=timezone(timedelta(hours=2)))
        deadline = Deadline(self._seconds)
        return await self._client.dispensation_history(STUDY, "test", SUBJECT, VISIT, as_of=now, deadline=deadline)

    async def register(self) -> object:
        deadline = Deadline(self._seconds)
        return await self._client.register_device(STUDY, "test", SUBJECT, REGISTER_BODY, deadline=deadline)

    async def access_code(self) -> object:
        deadline = Deadline(self._seconds)
        return await self._client.reissue_access_code(STUDY, "test", SUBJECT, KIT, M_SUBJECT, deadline=deadline)

    async def list(self) -> object:
        return await self._client.list_exceptions(STUDY, "test", deadline=Deadline(self._seconds))

    async def create(self) -> str | None:
        return await self._client.create_exception(STUDY, "test", DND.body(), deadline=Deadline(self._seconds))


@pytest.fixture
def calls(client: ClinicalOneClient) -> Calls:
    return Calls(client)


# --- token


async def test_a_token_is_asked_for_as_documented(calls: Calls, vendor: Vendor, server: ScriptedServer) -> None:
    await calls.dispensation()
    token, read = server.requests
    assert token.call == "POST /oauth/token"
    assert parse_qs(token.body.decode()) == {"grant_type": ["client_credentials"], "scope": ["tenant.ec-ors-svc.all"]}
    assert b64decode(token.headers["authorization"].removeprefix("Basic ")).decode() == f"client:{CLIENT_SECRET}"
    assert read.headers["authorization"] == f"Bearer {C1_TOKEN}-1"


@pytest.mark.parametrize(
    ("expires_in", "usable_s"),
    [
        (600, 540),
        ("600", 540),
        (None, 540),
        (-1, 540),
        (True, 540),
        ("soon", 540),
        (3600, 3540),
        (60, 30),
        (10**12, 86340),
    ],
)
async def test_a_token_is_renewed_a_minute_before_its_end(
    client: ClinicalOneClient, vendor: Vendor, server: ScriptedServer, expires_in: object, usable_s: float
) -> None:
    vendor.log_in = answers(200, {"access_token": "x", "expires_in": expires_in})
    before = boot_seconds()
    token = await fetch_token(client._calls, clinical_one(server.url), Deadline(10))  # noqa: SLF001
    assert usable_s - 1 < token.renew_at - before < usable_s + 5


async def test_a_token_that_ends_is_renewed_once_for_all_concurrent_callers(calls: Calls, vendor: Vendor) -> None:
    vendor.log_in = in_turn(
        answers(200, {"access_token": "short", "expires_in": 0.02}), answers(200, {"access_token": "long"})
    )
    await calls.dispensation()
    await asyncio.sleep(0.02)
    await asyncio.gather(*(calls.dispensation() for _ in range(20)))
    assert vendor.log_ins == 2


async def test_concurrent_401s_lead_to_one_new_token(calls: Calls, vendor: Vendor) -> None:
    await calls.dispensation()

    async def accept_the_second_token(exchange: Exchange) -> None:
        accepted = exchange.request.headers["authorization"].endswith("-2")
        await exchange.answer(200 if accepted else 401, {})

    vendor.script = when_all_arrived(20, accept_the_second_token)
    await asyncio.gather(*(calls.dispensation() for _ in range(20)))
    assert vendor.log_ins == 2


async def test_a_cancelled_caller_does_not_take_the_token_from_the_others(calls: Calls, vendor: Vendor) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def hold(exchange: Exchange) -> None:
        asked.set()
        await go.wait()
        await exchange.answer(200, {"access_token": "x"})

    vendor.log_in = hold
    leader = asyncio.create_task(calls.dispensation())
    await asked.wait()
    others = [asyncio.create_task(calls.dispensation()) for _ in range(5)]
    leader.cancel()
    go.set()
    assert await asyncio.gather(*others) == [None] * 5
    assert vendor.log_ins == 1
    with pytest.raises(asyncio.CancelledError):
        await leader


@pytest.mark.parametrize(
    ("log_in", "code"),
    [
        (answers(401, {"error": "invalid_client", "error_description": "x"}), "INVALID_CLIENT"),
        (answers(400, {"error": "invalid_scope"}), "INVALID_SCOPE"),
        (answers(400, {"error": "unauthorized_client"}), "UNAUTHORIZED_CLIENT"),
        (answers(403, {"error": "access_denied"}), "ACCESS_DENIED"),
        (answers(401, b"<html>"), "LOGIN_REFUSED"),
        (failing(403, "no"), "LOGIN_REFUSED"),
    ],
)
async def test_refused_credentials_are_never_tried_again(
    calls: Calls, vendor: Vendor, server: ScriptedServer, log_in: Script, code: str
) -> None:
    vendor.log_in = log_in
    for _ in range(3):
        with pytest.raises(LoginRefused) as caught:
            await calls.register()
        assert caught.value.code == code
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "log_in",
    [
        answers(400, {"error": "temporarily_unavailable"}),
        answers(400, b"<html>"),
        answers(403, b"<html>"),
        answers(404, {"error": "invalid_client"}),
        answers(500, {"error": "invalid_client"}),
        failing(500, "x"),
        answers(503),
        answers(302),
        answers(200, {}),
        answers(200, []),
        answers(200, b""),
        answers(200, {"access_token": ""}),
        answers(200, {"access_token": "a\nb"}),
        Exchange.cut,
    ],
)
async def test_a_token_service_that_fails_otherwise_is_asked_again_later(
    calls: Calls, vendor: Vendor, server: ScriptedServer, log_in: Script
) -> None:
    vendor.log_in = log_in
    for _ in range(2):
        with pytest.raises(Unavailable):
            await calls.register()
    vendor.log_in = None
    vendor.script = answers(200, REGISTERED)
    await calls.register()
    assert len(server.calls("register-device")) == 1


# --- dispensation


DISPENSED = {"subjectSrcId": SUBJECT.lower(), "visitSrcId": VISIT, "instanceNumber": 1, "kitNumber": 1001}


@pytest.mark.parametrize("wrap", [False, True])
async def test_a_dispensed_kit_names_its_subject(
    calls: Calls, vendor: Vendor, server: ScriptedServer, wrap: bool
) -> None:
    vendor.script = answers(200, {"status": "Success", "result": DISPENSED} if wrap else DISPENSED)
    assert await calls.dispensation() == Dispensation(SUBJECT, VISIT, 1, "1001")
    assert server.requests[-1].call == f"GET {ROOT}/inventory/kits/{KIT}/dispensation"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        None,
        {},
        [],
        {"subjectSrcId": None},
        {"subjectSrcId": " "},
        {"visitSrcId": VISIT},
        {"status": "Success", "version": 1, "result": None, "errorData": None},
        {"inventoryStatusId": 1, "inventoryStatus": "Available"},
        {"inventoryStatus": 17},
    ],
)
async def test_a_kit_without_a_subject_is_not_dispensed(calls: Calls, vendor: Vendor, body: object) -> None:
    vendor.script = answers(200, body)
    assert await calls.dispensation() is None


@pytest.mark.parametrize(
    "body", [{"inventoryStatusId": 4}, {"inventoryStatus": "4"}, {"inventoryStatus": " Dispensed"}]
)
async def test_a_status_without_a_subject_proves_no_pairing(calls: Calls, vendor: Vendor, body: object) -> None:
    vendor.script = answers(200, body)
    with pytest.raises(Refused) as caught:
        await calls.dispensation()
    assert caught.value.code == "SUBJECT_NOT_STATED"


@pytest.mark.parametrize(
    "body", [b"<html>", "text", 7, [DISPENSED], {"subjectSrcId": 7}, {"subjectSrcId": "Miller"}, {"subjectSrcId": []}]
)
async def test_a_dispensation_that_cannot_be_read_tells_nothing(calls: Calls, vendor: Vendor, body: object) -> None:
    vendor.script = answers(200, body)
    with pytest.raises(Unavailable):
        await calls.dispensation()


# --- history


async def test_the_history_is_asked_for_in_utc_and_read(calls: Calls, vendor: Vendor, server: ScriptedServer) -> None:
    rows = [
        {
            "inventoryId": KIT_DASHED,
            "deviceConnection": "DevicetoCloud",
            "deviceType": "Spirometer",
            "inventoryStatus": 4,
            "dispensationConfirmed": True,
            "dispensationDate": "2026-11-20T10:00:00.000Z",
            "instanceNumber": 1,
        },
        {"inventoryId": VISIT, "deviceConnection": "Cloud-to-Cloud", "inventoryStatus": "17"},
        {"inventoryId": SUBJECT, "deviceConnection": "Telepathy"},
        {"lotNumber": "without a serial number"},
    ]
    vendor.script = answers(200, rows)
    found = await calls.history()
    assert found[0] == HistoryRow(
        KIT, ConnectionType.DEVICE_TO_CLOUD, 4, True, "2026-11-20T10:00:00.000Z", 1, "Spirometer"
    )
    assert [(row.connection, row.status) for row in found[1:]] == [(ConnectionType.CLOUD_TO_CLOUD, 17), (None, None)]
    target = urlsplit(server.requests[-1].target)
    assert target.path == ROOT.replace("v1.0", "v10.0") + f"/subjects/{SUBJECT}/dispensation-history"
    assert parse_qs(target.query) == {"visitId": [VISIT], "asofdate": ["2026-11-21T12:05:06.789Z"]}


async def test_an_empty_history_says_that_nothing_was_dispensed(calls: Calls, vendor: Vendor) -> None:
    vendor.script = answers(200, {"result": []})
    assert await calls.history() == []


@pytest.mark.parametrize("body", [b"", None, {}, {"rows": []}, [1], [{"inventoryId": "x"}], "text"])
async def test_a_history_that_cannot_be_read_tells_nothing(calls: Calls, vendor: Vendor, body: object) -> None:
    vendor.script = answers(200, body)
    with pytest.raises(Unavailable):
        await calls.history()


async def test_a_moment_without_a_zone_is_a_programming_error(client: ClinicalOneClient) -> None:
    naive = datetime(2026, 11, 21)  # noqa: DTZ001 - that is the point
    with pytest.raises(ValueError, match="time zone"):
        await client.dispensation_history(STUDY, "test", SUBJECT, VISIT, as_of=naive, deadline=Deadline(10))


# --- devices


async def test_a_device_is_registered_and_its_credentials_are_not_shown(
    client: ClinicalOneClient, vendor: Vendor, server: ScriptedServer
) -> None:
    vendor.script = answers(200, REGISTERED)
    given = await client.register_device(STUDY, "test", SUBJECT, REGISTER_BODY, deadline=Deadline(10))
    assert (given.access_id, given.device_id, given.otp) == ("ABC123", KIT, "ABCD1234")
    assert repr(given) == str(given) == "DeviceCredentials(...)"
    assert server.requests[-1].call == f"POST {ROOT}/subjects/{SUBJECT}/register-device"
    assert json.loads(server.requests[-1].body) == REGISTER_BODY


@pytest.mark.parametrize("body", [{"id": KIT}, {"result": {"accessId": "A", "id": None}}, {"otp": "x"}])
async def test_a_registration_may_come_without_some_credentials(calls: Calls, vendor: Vendor, body: object) -> None:
    vendor.script = answers(200, body)
    await calls.register()
    await calls.access_code()


@pytest.mark.parametrize("body", [b"", None, {}, [], [REGISTERED], {"ok": True}, {"id": ""}, "text", b"<html>"])
async def test_a_200_without_credentials_leaves_the_device_in_doubt(calls: Calls, vendor: Vendor, body: object) -> None:
    vendor.script = answers(200, body)
    for call in (calls.register, calls.access_code):
        with pytest.raises(InDoubt):
            await call()


async def test_a_device_that_is_not_dispensed_waits(calls: Calls, vendor: Vendor) -> None:
    vendor.script = failing(400, "Device is not dispensed to the subject")
    for call in (calls.register, calls.access_code):
        with pytest.raises(NotYet):
            await call()


async def test_an_access_code_is_issued_anew(calls: Calls, vendor: Vendor, server: ScriptedServer) -> None:
    vendor.script = answers(200, REGISTERED)
    await calls.access_code()
    request = server.requests[-1]
    target = urlsplit(request.target)
    assert (request.method, target.path) == ("PUT", f"{ROOT}/subjects/{SUBJECT}/devices/{KIT}/access-code")
    assert parse_qs(target.query) == {"mSubjectId": [M_SUBJECT]}
    assert request.body == b""


async def test_an_access_code_for_a_device_that_is_not_registered_is_refused(calls: Calls, vendor: Vendor) -> None:
    vendor.script = failing(400, "mHealth device is not registered")
    with pytest.raises(Refused) as caught:
        await calls.access_code()
    assert caught.value.code == phrases.DEVICE_NOT_REGISTERED


async def test_missing_mhealth_settings_are_refused(calls: Calls, vendor: Vendor) -> None:
    vendor.script = failing(500, "mHealth setttings are not found")
    with pytest.raises(Refused) as caught:
        await calls.register()
    assert caught.value.code == phrases.MHEALTH_SETTINGS_NOT_FOUND


# --- exceptions


LISTED = {
    "dndExceptionId": KIT_DASHED,
    "allCountries": False,
    "countries": ["us"],
    "kitTypeSrcId": [KIT_DASHED],
    "siteIds": None,
    "visitDND": [{"visitSrcId": VISIT.lower(), "dnd": 2.0}],
}


@pytest.mark.parametrize("wrap", [False, True])
async def test_a_listed_exception_equals_the_request_for_it(
    client: ClinicalOneClient, vendor: Vendor, server: ScriptedServer, wrap: bool
) -> None:
    body = {"dndExceptions": [LISTED, LISTED | {"dndExceptionId": SUBJECT, "countries": []}]}
    vendor.script = answers(200, {"result": body} if wrap else body)
    equal, other = await client.list_exceptions(STUDY, "test", deadline=Deadline(10))
    assert (equal.id, equal.content) == (KIT, DND.normalised())
    assert (other.id, other.content == DND.normalised()) == (SUBJECT, False)
    assert server.requests[-1].call == f"GET {ROOT}/dndexception"


async def test_an_empty_list_is_a_list(calls: Calls, vendor: Vendor) -> None:
    vendor.script = answers(200, {"dndExceptions": []})
    assert await calls.list() == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        None,
        {},
        [],
        {"dndExceptions": None},
        {"dndExceptions": {}},
        {"dndExceptions": [1]},
        {"dndExceptions": [LISTED, {}]},
        {"dndExceptions": [LISTED | {"dndExceptionId": "7"}]},
        b"<html>",
    ],
)
async def test_a_list_that_cannot_be_read_in_full_is_no_list(calls: Calls, vendor: Vendor, body: object) -> None:
    vendor.script = answers(200, body)
    with pytest.raises(Unavailable):
        await calls.list()


@pytest.mark.parametrize(
    ("body", "created"),
    [
        ({"id": KIT_DASHED}, KIT),
        ({"status": "Success", "version": 1, "result": {"id": KIT}}, KIT),
        ({"status": "Success", "version": 1, "result": None}, None),
        ({"ok": True}, None),
        ({"id": None}, None),
        ({}, None),
        (None, None),
        (b"", None),
    ],
)
async def test_a_created_exception_may_come_without_its_id(
    calls: Calls, vendor: Vendor, server: ScriptedServer, body: object, created: str | None
) -> None:
    vendor.script = answers(200, body)
    assert await calls.create() == created
    assert server.requests[-1].call == f"POST {ROOT}/dndexception"
    assert json.loads(server.requests[-1].body) == DND.body()


@pytest.mark.parametrize("body", [[], "text", 7, {"id": "Miller"}, {"id": 7}, b"<html>"])
async def test_a_200_of_another_shape_leaves_the_exception_in_doubt(calls: Calls, vendor: Vendor, body: object) -> None:
    vendor.script = answers(200, body)
    with pytest.raises(InDoubt):
        await calls.create()


@pytest.mark.parametrize("dnd_path", ["DND Exception", "DND%20Exception"])
async def test_the_other_documented_path_can_be_set_plainly_or_encoded(
    server: ScriptedServer, vendor: Vendor, http: VendorHttp, dnd_path: str
) -> None:
    vendor.script = answers(200, {"dndExceptions": []})
    client = ClinicalOneClient(clinical_one(server.url, dnd_path=dnd_path), http, InMemoryGate())
    await client.list_exceptions(STUDY, "test", deadline=Deadline(10))
    assert server.requests[-1].target == f"{ROOT}/DND%20Exception"


async def test_ids_and_modes_cannot_lead_elsewhere(client: ClinicalOneClient, server: ScriptedServer) -> None:
    for study, mode in ((STUDY, ".."), (STUDY, ""), ("../x", "test"), ("", "test")):
        with pytest.raises(ValueError, match=r"segment|hexadecimal"):
            await client.list_exceptions(study, mode, deadline=Deadline(10))
    assert server.requests == []


async def test_as_of_now_is_accepted(client: ClinicalOneClient, vendor: Vendor) -> None:
    vendor.script = answers(200, [])
    now = datetime.now(UTC)
    assert await client.dispensation_history(STUDY, "test", SUBJECT, VISIT, as_of=now, deadline=Deadline(10)) == []
