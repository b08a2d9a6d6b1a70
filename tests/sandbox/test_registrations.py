"""OpenSpecimen: Update Registration, its partial updates, merges and deletions, dates and errors."""

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.sandbox.callers import EXAMPLE_UPDATE, Caller
from vendor_sandbox import seed


def midnight_ms(year: int, month: int, day: int, zone: str = "UTC") -> int:
    return int(datetime(year, month, day, tzinfo=ZoneInfo(zone)).timestamp() * 1000)


async def test_the_documented_example_is_answered_with_the_whole_object(caller: Caller) -> None:
    reply = await caller.update(1, EXAMPLE_UPDATE)
    assert reply.status == 200
    answer = reply.json
    participant = answer.pop("participant")
    assert participant["id"] == 2
    assert answer == {
        "id": 1,
        "cpId": 3,
        "cpTitle": "Assessment of Clinical Indicators",
        "cpShortTitle": "ASCI",
        "ppid": "ASCI123",
        "activityStatus": "Active",
        "registrationDate": midnight_ms(2014, 4, 21),
        "externalSubjectId": "TEST_001",
    }
    assert (await caller.registration()).json == reply.json


async def test_an_absent_key_stays_and_null_or_blank_clears(caller: Caller) -> None:
    await caller.update(1, {**EXAMPLE_UPDATE, "site": "Site A"})
    assert (await caller.update(1, {"ppid": "ASCI124"})).json["externalSubjectId"] == "TEST_001"
    cleared = (await caller.update(1, {"externalSubjectId": " ", "site": None})).json
    assert "externalSubjectId" not in cleared
    assert "site" not in cleared
    assert cleared["ppid"] == "ASCI124"


async def test_nulls_are_shown_where_the_installation_shows_them(caller: Caller) -> None:
    caller.control.switches(openspecimen_nulls="show")
    answer = (await caller.registration()).json
    assert answer["barcode"] is None
    assert answer["opComments"] is None


async def test_unknown_keys_and_the_protocol_are_ignored_without_a_word(caller: Caller) -> None:
    before = (await caller.registration()).json
    reply = await caller.update(1, {"ppID": "X1", "cpId": 999, "participant": {"race": ["White"]}, "id": 7})
    assert (reply.status, reply.json) == (200, before)
    assert caller.control.effects()[-1]["changed"] == []


async def test_the_same_update_twice_gives_the_same_state_and_logs_an_effect_that_changed_nothing(
    caller: Caller,
) -> None:
    first, second = await caller.update(1, EXAMPLE_UPDATE), await caller.update(1, EXAMPLE_UPDATE)
    assert first.json == second.json
    changed = [effect["changed"] for effect in caller.control.effects(effect="registration_updated")]
    assert changed == [["ppid", "registrationDate", "externalSubjectId"], []]


@pytest.mark.parametrize(
    ("sent", "day"),
    [
        ("2014-04-21", (2014, 4, 21)),
        ("2014-02-30", (2014, 3, 2)),
        ("2014-13-01", (2015, 1, 1)),
        ("2014-04-20T22:30:00Z", (2014, 4, 21)),
        ("2014-04-21T00:00:00+02:00", (2014, 4, 21)),
        (1398105000000, (2014, 4, 21)),
        ("1398105000000", (2014, 4, 21)),
    ],
)
async def test_dates_are_read_leniently_and_answered_as_midnight_of_the_servers_zone(
    caller: Caller, sent: object, day: tuple[int, int, int]
) -> None:
    caller.control.switches(time_zone="Europe/Berlin")
    reply = await caller.update(1, {"registrationDate": sent})
    assert reply.json["registrationDate"] == midnight_ms(*day, "Europe/Berlin")


async def test_the_participant_is_updated_by_key_presence_too(caller: Caller) -> None:
    person = {"vitalStatus": "Dead", "deathDate": "2020-02-03", "pmis": [{"mrn": "N1", "siteName": "Site B"}]}
    answer = (await caller.update(1, {"participant": person})).json["participant"]
    assert answer["lastName"] == "Last1"
    assert answer["deathDate"] == midnight_ms(2020, 2, 3)
    assert answer["pmis"] == person["pmis"]
    alive = (await caller.update(1, {"participant": {"vitalStatus": "Alive", "uid": None}})).json["participant"]
    assert "deathDate" not in alive
    assert "uid" not in alive


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        ({"ppid": "ASCI001"}, ["CPR_DUP_PPID"]),
        ({"ppid": "?"}, ["CPR_INVALID_PPID"]),
        ({"ppid": None}, ["CPR_PPID_REQUIRED"]),
        ({"registrationDate": None}, ["CPR_REG_DATE_REQUIRED"]),
        ({"registrationDate": "soon"}, ["INVALID_REQUEST"]),
        ({"registrationDate": 1.5}, ["INVALID_REQUEST"]),
        ({"registrationDate": True}, ["INVALID_REQUEST"]),
        ({"ppid": {"a": 1}}, ["INVALID_REQUEST"]),
        ({"participant": 2}, ["INVALID_REQUEST"]),
        ({"participant": {"id": "two"}}, ["INVALID_REQUEST"]),
        ({"participant": {"races": "White"}}, ["INVALID_REQUEST"]),
        ({"participant": {"pmis": ["x"]}}, ["INVALID_REQUEST"]),
        ({"participant": None}, ["CPR_PARTICIPANT_DETAIL_REQUIRED"]),
        ({"participant": {"id": 999}}, ["PARTICIPANT_NOT_FOUND"]),
        ({"activityStatus": "Sleeping", "site": "Nowhere"}, ["SITE_NOT_FOUND", "ACTIVITY_STATUS_INVALID"]),
        ({"participant": {"gender": "X"}, "site": "Nowhere"}, ["PARTICIPANT_INVALID_GENDER"]),
        ({"participant": {"races": ["X"]}}, ["PARTICIPANT_INVALID_RACE"]),
        ({"participant": {"birthDate": "2999-01-01"}}, ["PARTICIPANT_INVALID_BIRTH_DATE"]),
        ({"participant": {"emailAddress": "nobody"}}, ["PARTICIPANT_INVALID_EMAIL_ID"]),
        ({"participant": {"pmis": [{"mrn": "1", "siteName": "Nowhere"}]}}, ["SITE_NOT_FOUND"]),
        (
            {"participant": {"pmis": [{"mrn": "1", "siteName": "Site A"}, {"mrn": "2", "siteName": "Site A"}]}},
            ["PARTICIPANT_DUP_MRN_SITE"],
        ),
    ],
)
async def test_a_bad_field_is_a_400_with_its_code_and_changes_nothing(
    caller: Caller, body: dict[str, Any], codes: list[str]
) -> None:
    before = (await caller.registration()).json
    reply = await caller.update(1, body)
    assert (reply.status, reply.codes) == (400, codes)
    assert (await caller.registration()).json == before
    assert caller.control.effects() == []


async def test_duplicates_of_barcode_and_external_subject_id(caller: Caller) -> None:
    await caller.update(1, {"barcode": "B1", "externalSubjectId": "E1"})
    assert (await caller.update(2, {"barcode": "B1"})).codes == ["CPR_DUP_BARCODE"]
    duplicate = await caller.update(2, {"externalSubjectId": "E1"})
    assert (duplicate.status, duplicate.codes) == (500, ["COMMON_SQL_EXCEPTION"])
    assert [effect["key"]["registration_id"] for effect in caller.control.effects()] == [1]


async def test_a_protocol_may_make_its_own_ppids_or_be_specimen_centric(caller: Caller) -> None:
    assert (await caller.update(12, {"ppid": "AUTO77"})).codes == ["CPR_MANUAL_PPID_NOT_ALLOWED"]
    assert (await caller.update(12, {"ppid": ""})).json["ppid"] == "ASCI011"
    assert (await caller.update(13, {"ppid": "SPEC1"})).codes == ["CP_OP_NOT_ALLOWED_SC"]


@pytest.mark.parametrize(
    ("column", "missing", "denied"), [("code", 400, 400), ("doc", 404, 401)], ids=["server", "documentation"]
)
async def test_both_columns_of_statuses(caller: Caller, column: str, missing: int, denied: int) -> None:
    caller.control.switches(openspecimen_errors=column)
    for unknown in (await caller.registration(99), await caller.update(99, {})):
        assert (unknown.status, unknown.codes) == (missing, ["CPR_M_NOT_FOUND"])
    for forbidden in (await caller.registration(11), await caller.update(11, {})):
        assert (forbidden.status, forbidden.codes) == (denied, ["RBAC_ACCESS_DENIED"])
    assert (await caller.update(1, {"ppid": "ASCI001"})).status == 400


async def test_an_id_that_is_no_number_is_an_invalid_request(caller: Caller) -> None:
    assert (await caller.registration("one")).codes == ["INVALID_REQUEST"]
    assert (await caller.update("one", {})).codes == ["INVALID_REQUEST"]


async def test_a_reader_without_the_right_to_personal_data_sees_masks_and_no_dates(stranger: Caller) -> None:
    await stranger.log_in("masked", "masked-password")
    person = (await stranger.registration()).json["participant"]
    assert (person["firstName"], person["uid"], person["pmis"][0]["mrn"]) == ("###", "###", "###")
    assert "birthDate" not in person
    updated = (await stranger.update(1, {})).json["participant"]
    assert updated["firstName"] == "First1", "the answer of an update is never masked"


async def test_reading_alone_does_not_allow_updating(stranger: Caller) -> None:
    await stranger.log_in("reader", "reader-password")
    assert (await stranger.registration()).status == 200
    assert (await stranger.update(1, {})).codes == ["RBAC_ACCESS_DENIED"]


async def test_another_participant_id_merges_two_people(caller: Caller) -> None:
    state = caller.control.state()["openspecimen"]
    assert {"2", "20"} <= set(state["participants"])
    reply = await caller.update(12, {"participant": {"id": 2}})
    assert (reply.status, reply.json["participant"]["id"]) == (200, 2)
    assert "24" not in caller.control.state()["openspecimen"]["participants"]
    merged, updated = caller.control.effects()
    assert (merged["effect"], updated["effect"]) == ("participants_merged", "registration_updated")
    assert merged["key"] == {"registration_id": 12, "participant_id": 2, "removed_participant_id": 24, "cp_id": 5}


async def test_a_merge_on_the_same_protocol_drops_the_source_registration(caller: Caller) -> None:
    reply = await caller.update(10, {"participant": {"id": 4}})
    assert reply.json["id"] == 2, "the registration that is left is the target's"
    assert (await caller.registration(10)).codes == ["CPR_M_NOT_FOUND"]
    assert caller.control.state()["openspecimen"]["registrations"]["2"]["visits"] == 2


@pytest.mark.parametrize(
    "identifier",
    [{"uid": "UID-0002"}, {"empi": "EMPI-0002"}, {"pmis": [{"mrn": "MRN-0002", "siteName": "Site A"}]}],
    ids=["uid", "empi", "mrn"],
)
async def test_an_identifier_of_someone_else_merges_too(caller: Caller, identifier: dict[str, Any]) -> None:
    reply = await caller.update(12, {"participant": identifier})
    assert reply.json["participant"]["id"] == 4
    assert "24" not in caller.control.state()["openspecimen"]["participants"]


async def test_identifiers_of_two_others_or_beside_a_third_person_are_refused(caller: Caller) -> None:
    two = {"uid": "UID-0002", "empi": "EMPI-0003"}
    assert (await caller.update(1, {"participant": two})).codes == ["PARTICIPANT_MULTI_MATCHES"]
    third = {"id": 4, "uid": "UID-0003"}
    assert (await caller.update(1, {"participant": third})).codes == ["PARTICIPANT_DUP_UID"]


async def test_a_merge_needs_rights_on_all_of_the_source(caller: Caller) -> None:
    extra = {"id": 30, "participant_id": 2, "cp_id": 4, "ppid": "OTHER1", "registration_date": "2014-01-01"}
    caller.control.seed({"openspecimen": {"registrations": [extra]}}, add=True)
    assert (await caller.update(1, {"participant": {"id": 4}})).codes == ["CPR_CANNOT_MERGE_PARTICIPANT"]


async def test_disabled_deletes_the_registration_and_its_last_person(caller: Caller) -> None:
    reply = await caller.update(3, {"activityStatus": "Disabled"})
    assert (reply.status, reply.json["activityStatus"]) == (200, "Disabled")
    assert (await caller.registration(3)).codes == ["CPR_M_NOT_FOUND"]
    assert "6" not in caller.control.state()["openspecimen"]["participants"]
    assert [effect["effect"] for effect in caller.control.effects()] == ["registration_deleted"]


async def test_visits_keep_a_registration_from_being_deleted_unless_forced(caller: Caller) -> None:
    assert (await caller.update(10, {"activityStatus": "Disabled"})).codes == ["PARTICIPANT_REF_ENTITY_FOUND"]
    assert (await caller.update(10, {"activityStatus": "Disabled", "forceDelete": True})).status == 200


async def test_registrations_are_found_by_protocol_and_ppid(caller: Caller) -> None:
    path = "collection-protocol-registrations/list"
    exact = await caller.openspecimen("POST", path, {"cpId": seed.CP_ID, "ppid": "ASCI001", "exactMatch": True})
    assert [row["cprId"] for row in exact.json] == [2]
    part = await caller.openspecimen("POST", path, {"cpId": seed.CP_ID, "ppid": "asci", "startAt": 2, "maxResults": 3})
    assert [row["cprId"] for row in part.json] == [3, 4, 5]


async def test_a_body_that_is_not_announced_as_json_is_a_415(caller: Caller) -> None:
    path = "collection-protocol-registrations/1"
    reply = await caller.openspecimen("PUT", path, data=b"{}", headers={"Content-Type": "text/plain"})
    assert reply.status == 415


def test_the_documented_milliseconds_are_a_day_off_the_documented_request() -> None:
    assert datetime.fromtimestamp(1398105000, UTC).astimezone(ZoneInfo("Asia/Kolkata")).day == 22
