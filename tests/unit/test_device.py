import pytest
from pydantic import ValidationError

from tests.support.requests import device, refusal


@pytest.mark.parametrize("key", ["subject_number", "vendor_code"])
def test_a_device_says_how_it_connects_in_1_to_100_characters(key: str) -> None:
    for length in (1, 100):
        assert getattr(device(**{key: "x" * length}), key) == "x" * length
    for text, words in (("", "at least 1 character"), (" ", "at least 1 character"), ("x" * 101, "at most 100")):
        with pytest.raises(ValidationError, match=words):
            device(**{key: text})


def test_a_device_connects_in_exactly_one_way() -> None:
    with pytest.raises(ValidationError, match="neither was given"):
        device()
    with pytest.raises(ValidationError, match="both were given"):
        device(subject_number="A-1", vendor_code="X")


@pytest.mark.parametrize("text", ["", "   ", None])
def test_the_mhealth_subject_id_is_not_blank(text: object) -> None:
    assert "device.m_subject_id" in refusal(device__m_subject_id=text)


@pytest.mark.parametrize("path", ["subject__study_id", "subject__subject_id", "device__inventory_id"])
def test_an_id_is_a_uuid(path: str) -> None:
    assert f"{path.replace('__', '.')}: must be an id of 32 hexadecimal digits" in refusal(**{path: "ASCI123"})
