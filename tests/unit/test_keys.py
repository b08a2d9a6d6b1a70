"""The file that holds a ledger's key."""

import stat
from pathlib import Path

import pytest

from onboarding.errors import BadSettings
from onboarding.keys import LedgerKey, key_file, make_key_file, read_key_file


def test_a_key_that_was_made_is_read_and_ends_its_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    assert read_key_file(path) is None
    text = make_key_file(path)
    assert read_key_file(path) == text
    assert key_file(path) == tmp_path / "ledger.db.key"
    assert key_file(path).read_bytes() == text.encode() + b"\n"
    assert LedgerKey.from_text(text).key_id
    assert stat.S_IMODE(key_file(path).stat().st_mode) == 0o600


def test_what_no_key_can_hold_is_read_without_an_error_and_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    key_file(path).write_bytes(b" \xc3\xa9\n")
    for text in (read_key_file(path), make_key_file(path)):
        assert text == "\ufffd\ufffd"
        with pytest.raises(BadSettings):
            LedgerKey.from_text(text)
    assert key_file(path).read_bytes() == b" \xc3\xa9\n", "what stands is never replaced"
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.db.key"]
