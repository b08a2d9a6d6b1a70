"""What Clinical One says about a kit, read value by value, without a network."""

import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from onboarding.vendors.dispensation import (
    ConnectionType,
    Dispensation,
    HistoryRow,
    SubjectNotStated,
    as_of_text,
    read_dispensation,
    read_history,
)
from onboarding.vendors.wire import Unreadable

SUBJECT = "0A" * 16
VISIT = "1B" * 16
KIT = "2C" * 16


def row(**values: object) -> HistoryRow:
    [found] = read_history([{"inventoryId": KIT} | values])
    return found


def test_a_dispensation_names_its_subject_and_what_else_is_stated() -> None:
    stated = {"subjectSrcId": SUBJECT.lower(), "visitSrcId": f" {VISIT} ", "instanceNumber": "2", "kitNumber": 1001}
    assert read_dispensation(stated) == Dispensation(SUBJECT, VISIT, 2, "1001")
    assert read_dispensation({"subjectSrcId": SUBJECT}) == Dispensation(SUBJECT, None, None, None)
    assert read_dispensation({"subjectSrcId": SUBJECT, "visitSrcId": None}) == Dispensation(SUBJECT, None, None, None)


@pytest.mark.parametrize("content", ["text", 7, [1], {"subjectSrcId": 7}, {"subjectSrcId": SUBJECT, "visitSrcId": ""}])
def test_a_dispensation_of_another_shape_cannot_be_read(content: object) -> None:
    why = r"^an id is not 32 hexadecimal digits$" if isinstance(content, dict) else r"^a dispensation is an object$"
    with pytest.raises(Unreadable, match=why) as caught:
        read_dispensation(content)
    assert not isinstance(caught.value, SubjectNotStated)


@pytest.mark.parametrize(
    "status",
    [
        {"inventoryStatusId": 4},
        {"inventoryStatusId": "4", "inventoryStatus": "Available"},
        {"inventoryStatus": 4.0},
        {"inventoryStatus": " DISPENSED "},
        {"inventoryStatusId": None, "inventoryStatus": "Dispensed"},
        {"inventoryStatusId": "dispensed"},
    ],
)
def test_a_kit_that_is_dispensed_to_nobody_in_particular_proves_nothing(status: dict[str, object]) -> None:
    for nobody in ({}, {"subjectSrcId": None}, {"subjectSrcId": "  "}):
        with pytest.raises(SubjectNotStated, match=r"^the kit is dispensed, but to whom is not said$"):
            read_dispensation(status | nobody)


@pytest.mark.parametrize(
    "status",
    [
        {"inventoryStatusId": 1, "inventoryStatus": "Dispensed"},
        {"inventoryStatusId": 17},
        {"inventoryStatus": "Not dispensed"},
        {"inventoryStatus": True},
        {"inventoryStatus": 4.5},
        {},
    ],
)
def test_a_kit_of_another_status_without_a_subject_is_not_dispensed(status: dict[str, object]) -> None:
    assert read_dispensation(status) is None


@pytest.mark.parametrize("content", [None, {}, "text", [1], [{"inventoryId": KIT}, None]])
def test_a_history_of_another_shape_cannot_be_read(content: object) -> None:
    with pytest.raises(Unreadable, match=r"^a history is a list of objects$"):
        read_history(content)


def test_a_row_without_a_kit_is_left_out_and_one_with_a_wrong_id_cannot_be_read() -> None:
    assert read_history([]) == []
    assert read_history([{"inventoryId": None}, {"lotNumber": "1"}]) == []
    for wrong in ("", "2C", 7):
        with pytest.raises(Unreadable, match=r"^an id is not 32 hexadecimal digits$"):
            read_history([{"inventoryId": wrong}])


def test_a_row_without_details_tells_none() -> None:
    assert row() == HistoryRow(KIT, None, None, None, None, None, None)


@pytest.mark.parametrize(
    ("value", "connection"),
    [
        ("CloudtoCloud", ConnectionType.CLOUD_TO_CLOUD),
        ("cloud-to-cloud", ConnectionType.CLOUD_TO_CLOUD),
        ("Device to Cloud", ConnectionType.DEVICE_TO_CLOUD),
        ("NO_CONNECTION", ConnectionType.NONE),
        ("CloudtoClouds", None),
        ("", None),
        (1, None),
        (None, None),
    ],
)
def test_a_connection_is_known_however_it_is_spelt(value: object, connection: ConnectionType | None) -> None:
    assert row(deviceConnection=value).connection is connection


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3),
        (3.0, 3),
        ("3", 3),
        (" 3 ", 3),
        ("9" * 19, 10**19 - 1),
        ("9" * 20, None),
        (-1, -1),
        (3.5, None),
        (float("inf"), None),
        (float("nan"), None),
        ("3.0", None),
        ("", None),
        (True, None),
        ([3], None),
        (None, None),
    ],
)
def test_a_number_is_whole_or_none(value: object, number: int | None) -> None:
    assert row(instanceNumber=value).instance_number == number
    assert row(inventoryStatus=value).status == number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("A 1", "A 1"),
        ("", ""),
        (7, "7"),
        (7.0, "7"),
        (7.5, "7.5"),
        (" 8 ", " 8 "),
        (True, None),
        ([1], None),
        (None, None),
    ],
)
def test_a_text_may_come_as_a_number(value: object, text: str | None) -> None:
    assert (row(deviceType=value).device_type, row(dispensationDate=value).dispensed_at) == (text, text)
    found = read_dispensation({"subjectSrcId": SUBJECT, "kitNumber": value})
    assert found is not None
    assert found.kit_number == text


@pytest.mark.parametrize(
    ("value", "confirmed"), [(True, True), (False, False), ("true", None), (1, None), (None, None)]
)
def test_only_true_and_false_say_whether_it_was_confirmed(value: object, confirmed: bool | None) -> None:
    assert row(dispensationConfirmed=value).confirmed is confirmed


def test_a_moment_is_written_in_utc_with_milliseconds() -> None:
    east = timezone(timedelta(hours=2))
    assert as_of_text(datetime(2026, 11, 21, 14, 5, 6, 789999, tzinfo=east)) == "2026-11-21T12:05:06.789Z"
    assert as_of_text(datetime(2026, 11, 21, tzinfo=UTC)) == "2026-11-21T00:00:00.000Z"
    with pytest.raises(ValueError, match=r"^as_of needs a time zone$"):
        as_of_text(datetime(2026, 11, 21))  # noqa: DTZ001 - that is the point


def test_a_moment_is_written_in_utc_wherever_this_machine_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime(2026, 11, 21, 12, 5, 6, tzinfo=UTC)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        assert moment.astimezone().utcoffset() == timedelta(hours=5, minutes=30)
        written = as_of_text(moment)
    time.tzset()
    assert written == "2026-11-21T12:05:06.000Z"
