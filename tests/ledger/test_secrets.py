"""Encryption and keys: what is secret is nowhere in the clear, and no ciphertext fits another place or key."""

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onboarding.errors import BadSettings, LedgerError
from onboarding.intake import parse_request
from onboarding.keys import LedgerKey
from onboarding.ledger.claims import ExceptionClaim
from onboarding.ledger.states import StepStatus
from onboarding.ledger.views import Intent
from onboarding.ledger.writes import CaseWrite
from tests.ledger.bench import DEVICE, QUIET_S, REGISTRATION, Bench, other_subject
from tests.support.requests import MARKER, PARTICIPANT, example

KEY = LedgerKey(bytes(range(32)))


def plant(bench: Bench) -> str:
    """Write the marker wherever the ledger takes personal data, credentials or free text."""
    lease = bench.open_and_lease(parse_request(example(registration__participant=PARTICIPANT)))
    secret = MARKER.encode()

    def change(write: CaseWrite) -> None:
        write.step(REGISTRATION).intend(Intent(secret, QUIET_S))
        write.step(REGISTRATION).doubt("CUT", http_status=502, vendor_text=f"{MARKER} exists already")
        write.step(DEVICE).intend(Intent(secret, QUIET_S))
        write.step(DEVICE).applied({}, code="REGISTERED", credentials=secret)
        claim = ExceptionClaim.take(write, "content")
        assert isinstance(claim, ExceptionClaim)
        claim.intend(Intent(secret, QUIET_S))
        write.record("note", reason=f"because of {MARKER}")

    bench.ledger.fenced(lease, change)
    return lease.case_id


def test_markers_are_found_in_no_column_and_in_no_file(bench: Bench) -> None:
    case_id = plant(bench)
    assert MARKER not in str(bench.content())
    if bench.is_sqlite:
        path = bench.ledger.store.path
        assert path is not None
        files = [file for file in path.parent.iterdir() if file.is_file()]
    else:
        bench.sql("CHECKPOINT")
        folder = Path(bench.sql("SHOW data_directory")[0]["data_directory"])
        files = [file for file in folder.rglob("*") if file.is_file()]
    content = [file.read_bytes() for file in files if file.exists()]
    assert any(case_id.encode() in each for each in content), "the search looks where the ledger is"
    assert not any(MARKER.encode() in each for each in content)
    assert MARKER in bench.ledger.vendor_texts(case_id)["registration"]


def test_the_request_of_another_case_does_not_fit(bench: Bench) -> None:
    first, second = bench.open(), bench.open(other_subject())
    bench.sql(
        "UPDATE onboarding_case SET request_sealed = (SELECT request_sealed FROM onboarding_case WHERE id = :second) "
        "WHERE id = :first",
        first=first,
        second=second,
    )
    with pytest.raises(LedgerError, match=f"request/{first} cannot be decrypted"):
        bench.ledger.request(first)
    assert bench.ledger.request(second).subject.subject_id


def test_a_ciphertext_moved_to_another_column_row_or_entry_is_refused(bench: Bench) -> None:
    case_id = plant(bench)
    bench.sql("UPDATE onboarding_step SET vendor_text_sealed = intent_sealed WHERE name = 'registration'")
    with pytest.raises(LedgerError, match=f"step/{case_id}/registration/vendor_text cannot be decrypted"):
        bench.ledger.vendor_texts(case_id)
    bench.let_the_trail_be_changed()
    bench.sql(
        "UPDATE onboarding_event SET reason_sealed = "
        "(SELECT reason_sealed FROM onboarding_event WHERE reason_sealed IS NOT NULL) WHERE sequence = 1"
    )
    with pytest.raises(LedgerError, match=f"event/{case_id}/1 cannot be decrypted"):
        bench.ledger.events(case_id)


def test_every_place_has_a_ciphertext_of_its_own(bench: Bench) -> None:
    plant(bench)
    sealed = [bytes(row["s"]) for row in bench.sql("SELECT intent_sealed AS s FROM onboarding_step") if row["s"]]
    assert len(sealed) == len(set(sealed)) == 2
    assert bench.step(bench.open(other_subject()), DEVICE).status is StepStatus.PENDING


# Keys by themselves


@given(plain=st.binary(max_size=200), place=st.text(max_size=30))
def test_what_is_encrypted_is_decrypted_for_its_place(plain: bytes, place: str) -> None:
    sealed = KEY.encrypt(plain, place)
    assert KEY.decrypt(sealed, place) == plain
    assert sealed != KEY.encrypt(plain, place)


@given(st.data())
def test_a_ciphertext_that_was_changed_or_cut_is_refused(data: st.DataObject) -> None:
    sealed = bytearray(KEY.encrypt(b"body", "place"))
    if data.draw(st.booleans()):
        sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del sealed[data.draw(st.integers(0, len(sealed) - 1)) :]
    with pytest.raises(LedgerError, match="cannot be decrypted"):
        KEY.decrypt(bytes(sealed), "place")


def test_another_key_and_another_place_are_refused() -> None:
    sealed = KEY.encrypt(b"body", "place")
    for key, place in ((LedgerKey(os.urandom(32)), "place"), (KEY, "another place")):
        with pytest.raises(LedgerError, match="cannot be decrypted") as refused:
            key.decrypt(sealed, place)
        assert refused.value.__cause__ is None


def test_digests_are_keyed_and_keep_parts_apart() -> None:
    assert KEY.digest("1961-07-03") == KEY.digest("1961-07-03") != LedgerKey(os.urandom(32)).digest("1961-07-03")
    assert KEY.digest("ab", "c") != KEY.digest("a", "bc") != KEY.digest("abc")
    assert KEY.digest("x") != KEY.seal("x")


def test_a_key_gives_what_ledgers_hold_already() -> None:
    """Else a new version could read nothing, recognise nobody and trust no trail of a ledger that it still opens."""
    # Worked out without this program, as RFC 5869 and the packing of ``keys`` say it.
    assert KEY.key_id == "960d1a6184b3415f"
    assert KEY.digest("1961-07-03", "ä") == "29e4134354eac9963dc470b161048d3675ffb275c654526d8d32bc2748e0559f"
    assert KEY.seal("a", "bc") == "100b0904adccd97f15569a9359ab25d4cf62b02546bd0727e70096adf129fb50"
    sealed = bytes.fromhex("01000102030405060708090a0bd91e38b42d9fae97a8055098114c8b9315f94c35")
    assert KEY.decrypt(sealed, "place") == b"body"


def test_a_key_shows_only_its_public_id() -> None:
    text = base64.urlsafe_b64encode(bytes(range(32))).decode()
    assert repr(LedgerKey.from_text(f" {text}\n")) == f"LedgerKey({KEY.key_id})"
    assert KEY.key_id not in text
    assert LedgerKey.from_text(LedgerKey.new_text()).key_id != LedgerKey.from_text(LedgerKey.new_text()).key_id


@pytest.mark.parametrize("text", ["", "short", "A" * 43, "Ä" * 44, "A" * 44 + "A" * 44, "A===="])
def test_a_key_that_is_no_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(BadSettings, match=r"^ONBOARDING_LEDGER_KEY: must be 32 bytes in URL-safe base64\.$"):
        LedgerKey.from_text(text)
