"""Clinical One: tokens, rights, dispensation, history and devices."""

from typing import Any

import pytest

from tests.sandbox.callers import Caller
from vendor_sandbox import seed

DASHED_SUBJECT = "0a1b2c3d-4e5f-6789-0123-456789abcdef"


async def test_a_token_lives_ten_minutes(stranger: Caller) -> None:
    reply = await stranger.take_token()
    assert reply.json["expires_in"] == 600
    assert reply.json["token_type"] == "Bearer"
    assert (await stranger.dispensation()).status == 200


async def test_the_password_grant_needs_the_users_password(stranger: Caller) -> None:
    right = {"grant_type": "password", "username": "integration.user", "password": "integration-password"}
    assert (await stranger.take_token(**right)).status == 200
    wrong = await stranger.take_token(**{**right, "password": "wrong"})
    assert (wrong.status, wrong.json["error"]) == (400, "invalid_grant")
    nobody = await stranger.take_token(grant_type="password")
    assert nobody.json["error"] == "invalid_grant"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"scope": None}, "invalid_scope"),
        ({"scope": "other.ec-ors-svc.all"}, "invalid_scope"),
        ({"grant_type": None}, "invalid_request"),
        ({"grant_type": "refresh_token"}, "unsupported_grant_type"),
    ],
)
async def test_a_token_request_that_lacks_something_is_refused(
    stranger: Caller, change: dict[str, Any], error: str
) -> None:
    reply = await stranger.take_token(**change)
    assert (reply.status, reply.json["error"]) == (400, error)


async def test_a_wrong_secret_is_an_invalid_client(stranger: Caller) -> None:
    reply = await stranger.take_token(secret="wrong")
    assert (reply.status, reply.json["error"]) == (401, "invalid_client")
    form = {"grant_type": "client_credentials", "client_id": seed.CLIENT_ID, "client_secret": seed.CLIENT_SECRET}
    assert (await stranger.send("POST", stranger.addresses["token_url"], data=form)).status == 401


async def test_a_client_may_use_only_its_own_grants(stranger: Caller) -> None:
    reply = await stranger.take_token("test-only-client", "test-only-secret", grant_type="password")
    assert reply.json["error"] == "unauthorized_client"


async def test_no_token_and_an_ended_one_are_a_401_in_the_vendors_shape(stranger: Caller) -> None:
    assert (await stranger.dispensation()).status == 401
    stranger.control.switches(token_seconds=0)
    await stranger.take_token()
    reply = await stranger.dispensation()
    assert reply.status == 401
    assert reply.phrase.startswith("Unauthorized")


async def test_rights_are_held_per_mode(stranger: Caller) -> None:
    await stranger.take_token("test-only-client", "test-only-secret")
    assert (await stranger.dispensation()).status == 200
    assert (await stranger.dispensation(20, mode="training")).status == 403
    await stranger.take_token("reader-client", "reader-secret")
    assert (await stranger.dispensation()).status == 200
    assert (await stranger.register(1, 1)).status == 403


async def test_a_token_for_another_service_is_a_403(stranger: Caller) -> None:
    await stranger.take_token(scope="sandbox.ec-dc-svc.all")
    assert (await stranger.dispensation()).status == 403


async def test_another_study_or_version_is_a_404(caller: Caller) -> None:
    cases: list[dict[str, Any]] = [{"study_id": "0" * 32}, {"version": "v9.0"}, {"study_id": "not-an-id"}]
    for options in cases:
        reply = await caller.dispensation(**options)
        assert (reply.status, reply.phrase) == (404, "Invalid study ID or version")
    assert (await caller.dispensation(mode="live")).status == 400


async def test_modes_are_separate(caller: Caller) -> None:
    assert (await caller.dispensation(20, mode="training")).json["kitNumber"] == 1020
    assert (await caller.dispensation(20, mode="test")).body == b""


async def test_the_dispensation_names_the_subject_in_dashed_lower_case(caller: Caller) -> None:
    answer = (await caller.dispensation()).json
    assert answer["subjectSrcId"] == DASHED_SUBJECT
    assert (answer["instanceNumber"], answer["kitNumber"]) == (1, 1001)
    caller.control.switches(dispensation_ids="plain")
    assert (await caller.dispensation()).json["subjectSrcId"] == seed.subject_id(1)


async def test_ids_are_taken_in_either_spelling(caller: Caller) -> None:
    dashed = "b1b8327a-faa6-4122-8710-6192ab5984ef"
    assert (await caller.clinical_one("GET", f"inventory/kits/{dashed}/dispensation")).json["kitNumber"] == 1001
    assert (await caller.clinical_one("GET", "inventory/kits/B1B8/dispensation")).status == 400


@pytest.mark.parametrize(
    ("style", "body"),
    [
        ("empty", b""),
        ("null", b"null"),
        ("object", b"{}"),
        ("no_subject", b'{"kitNumber":1005}'),
        ("null_subject", b'{"subjectSrcId":null,"visitSrcId":null,"kitNumber":1005}'),
    ],
)
async def test_the_answer_for_a_kit_nobody_holds_is_a_switch(caller: Caller, style: str, body: bytes) -> None:
    caller.control.switches(undispensed=style)
    reply = await caller.dispensation(5)
    assert (reply.status, reply.body) == (200, body)


async def test_the_other_documented_schema_tells_a_status_but_no_subject(caller: Caller) -> None:
    caller.control.switches(dispensation_schema="kit_status")
    assert (await caller.dispensation()).json == {
        "inventoryStatus": "Dispensed",
        "inventoryStatusId": 4,
        "missingUnits": 0,
    }
    assert (await caller.dispensation(5)).json["inventoryStatusId"] == 1


async def test_successes_may_come_wrapped(caller: Caller) -> None:
    caller.control.switches(wrap_results=True)
    answer = (await caller.dispensation()).json
    assert answer["result"]["subjectSrcId"] == DASHED_SUBJECT
    assert (await caller.clinical_one("GET", "dndexception")).json["result"] == {"dndExceptions": []}


async def test_the_history_tells_the_connection_type(caller: Caller) -> None:
    for number, connection in enumerate(["DevicetoCloud", "CloudtoCloud", "NoConnection", None], start=1):
        (row,) = (await caller.history(number)).json
        assert (row["inventoryId"], row["deviceConnection"]) == (seed.inventory_id(number), connection)
        assert row["inventoryStatus"] == 4


async def test_lost_kits_stay_with_the_subject_and_never_dispensed_ones_do_not(caller: Caller) -> None:
    assert [row["inventoryStatus"] for row in (await caller.history(7)).json] == [13]
    assert (await caller.dispensation(8)).json["subjectSrcId"].replace("-", "").upper() == seed.subject_id(7)
    assert [row["inventoryStatus"] for row in (await caller.history(8)).json] == [17]
    assert (await caller.dispensation(9)).body == b""


@pytest.mark.parametrize(
    "change", [{"visitId": ""}, {"asofdate": ""}, {"visitId": "x"}, {"asofdate": "today"}, {"asofdate": "2024-05-01"}]
)
async def test_the_history_refuses_missing_or_odd_parameters(caller: Caller, change: dict[str, str]) -> None:
    reply = await caller.history(1, **change)
    assert (reply.status, reply.phrase) == (400, "Invalid parameters")


async def test_the_history_of_nobody_is_a_404_and_of_another_visit_or_time_is_empty(caller: Caller) -> None:
    reply = await caller.history(99)
    assert (reply.status, reply.phrase) == (404, "Subject not found")
    assert (await caller.history(1, visitId="0" * 32)).json == []
    assert (await caller.history(1, asofdate="2024-04-30T00:00:00.000Z")).json == []


async def test_a_rolled_back_dispensation_is_shown_by_v12_alone_and_on_demand(caller: Caller) -> None:
    assert caller.control.roll_back(seed.STUDY_ID, "test", seed.inventory_id(1))
    assert (await caller.dispensation()).body == b""
    assert (await caller.history(1)).json == []
    assert (await caller.history(1, version="v12.0")).json == []
    (row,) = (await caller.history(1, version="v12.0", includeRollback="true")).json
    assert row["dispensationRollback"] is True


async def test_a_kit_can_be_dispensed_and_taken_back_while_it_runs(caller: Caller) -> None:
    kit, subject = seed.inventory_id(5), seed.subject_id(5)
    assert (await caller.register(5, 5)).phrase == "Device is not dispensed to the subject"
    caller.control.dispense(seed.STUDY_ID, "test", kit, subject, visit_id=seed.VISIT_ID)
    assert len((await caller.history(5)).json) == 1
    caller.control.undispense(seed.STUDY_ID, "test", kit)
    assert (await caller.history(5)).json[0]["inventoryStatus"] == 17
    assert (await caller.register(5, 5)).phrase == "Device is not dispensed to the subject"


@pytest.mark.parametrize(
    ("subject", "kit", "given", "phrase"),
    [
        (99, 1, {}, "Invalid subject Id"),
        (1, 99, {}, "Invalid device Id"),
        (1, 1, {"inventoryId": None}, "Invalid device Id"),
        (1, 1, {"mSubjectId": None}, "Invalid parameters"),
        (1, 1, {"subjectNumber": "x" * 101}, "Invalid parameters"),
        (5, 5, {}, "Device is not dispensed to the subject"),
        (2, 1, {}, "Device is dispensed to different subject"),
        (3, 3, {}, "Device is of no-connection connection type"),
        (4, 4, {}, "Device does not have a connection type"),
        (2, 2, {}, "Vendor code is missing for cloud to cloud connection type of devices"),
        (1, 1, {"vendorCode": "X"}, "Vendor code has been specified for device to cloud connection type of devices"),
        (1, 1, {"subjectNumber": None}, "Subject number is missing for device to cloud connection type of devices"),
    ],
)
async def test_a_registration_that_breaks_a_rule_is_refused_with_its_phrase(
    caller: Caller, subject: int, kit: int, given: dict[str, Any], phrase: str
) -> None:
    reply = await caller.register(subject, kit, **given)
    assert (reply.status, reply.phrase) == (400, phrase)
    assert caller.control.effects() == []


async def test_a_cloud_to_cloud_device_is_registered_once(caller: Caller) -> None:
    first = await caller.register(2, 2, vendorCode="XYZ123")
    assert (first.status, set(first.json)) == (200, {"id", "accessId", "otp"})
    second = await caller.register(2, 2, vendorCode="XYZ123")
    assert second.phrase == "Cloud to cloud connection type device is already registered"
    assert len(caller.control.effects(effect="device_registered")) == 1


async def test_whether_cloud_to_cloud_answers_credentials_is_a_switch(caller: Caller) -> None:
    caller.control.switches(cloud_to_cloud_answer="id_only")
    assert set((await caller.register(2, 2, vendorCode="XYZ123")).json) == {"id"}


async def test_a_device_to_cloud_device_gets_a_new_code_when_registered_again(caller: Caller) -> None:
    first, second = await caller.register(1, 1), await caller.register(1, 1)
    assert first.json["id"] == second.json["id"]
    assert first.json["otp"] != second.json["otp"]
    assert len(caller.control.effects(effect="device_registered")) == 2


async def test_a_subject_has_one_device_to_cloud_device(caller: Caller) -> None:
    assert (await caller.register(6, 6)).status == 200
    assert (await caller.register(6, 7)).status == 400
    devices = f"subjects/{seed.subject_id(6)}/devices/{seed.inventory_id(6)}"
    assert (await caller.clinical_one("DELETE", devices, params={"mSubjectId": "M6"})).json == "Success"
    assert (await caller.register(6, 7)).status == 200


async def test_the_access_code_call_answers_only_for_a_registered_device(caller: Caller) -> None:
    path = f"subjects/{seed.subject_id(1)}/devices/{seed.inventory_id(1)}/access-code"
    named = {"mSubjectId": "M1"}
    before = await caller.clinical_one("PUT", path, params=named)
    assert (before.status, before.phrase) == (400, "mHealth device is not registered")
    registered = await caller.register(1, 1)
    assert (await caller.clinical_one("PUT", path)).phrase == "Invalid parameters"
    other = await caller.clinical_one("PUT", path, params={"mSubjectId": "M2"})
    assert other.phrase == "mHealth device is not registered"
    issued = await caller.clinical_one("PUT", path, params=named)
    assert issued.json["id"] == registered.json["id"]
    assert issued.json["otp"] != registered.json["otp"]
    caller.control.roll_back(seed.STUDY_ID, "test", seed.inventory_id(1))
    assert (await caller.clinical_one("PUT", path, params=named)).phrase == "Device is not dispensed to the subject"
    assert len(caller.control.effects(effect="access_code_issued")) == 1


async def test_a_study_without_mhealth_settings_is_a_500_that_says_so(caller: Caller) -> None:
    body = {"inventoryId": seed.inventory_id(40), "mSubjectId": "M", "subjectNumber": "s"}
    path = f"subjects/{seed.subject_id(40)}/register-device"
    reply = await caller.clinical_one("POST", path, body, study_id=seed.OTHER_STUDY_ID)
    assert (reply.status, reply.phrase) == (500, "mHealth setttings are not found")


async def test_newer_pages_word_the_same_refusals_differently(caller: Caller) -> None:
    caller.control.switches(phrases="newer", error_details="string")
    reply = await caller.register(2, 1)
    assert reply.phrase == "Device is dispensed to a different subject"
    assert isinstance(reply.json["errorData"]["details"], str)
    assert (await caller.register(2, 2)).phrase.startswith("Vendor code is missing for cloud-to-cloud")


@pytest.mark.parametrize("body", [b"{", b"[]", b"NaN"])
async def test_a_body_that_is_no_object_is_refused(caller: Caller, body: bytes) -> None:
    url = f"subjects/{seed.subject_id(1)}/register-device"
    caller.headers["clinical_one"]["Content-Type"] = "application/json"
    reply = await caller.clinical_one("POST", url, data=body)
    assert (reply.status, reply.phrase) == (400, "Invalid parameters")


async def test_an_unknown_path_is_a_404_that_is_not_in_the_vendors_shape(caller: Caller) -> None:
    reply = await caller.clinical_one("GET", "nothing/here")
    assert reply.status == 404
    assert reply.headers["Content-Type"].startswith("text/html")
