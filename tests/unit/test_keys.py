"""The file that holds a ledger's key."""

import errno
import os
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


def test_a_key_survives_a_power_cut_before_anything_is_written_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    kept: list[tuple[int, bool]] = []
    fsync = os.fsync

    def note(handle: int) -> None:
        fsync(handle)
        kept.append((os.fstat(handle).st_ino, key_file(path).exists()))

    monkeypatch.setattr(os, "fsync", note)
    make_key_file(path)
    file, folder = key_file(path).stat().st_ino, tmp_path.stat().st_ino
    assert kept == [(file, False), (folder, True)], "what it holds is on the disk before its name is, and then the name"
    make_key_file(path)
    assert kept[-1] == (folder, True), "whoever comes second uses it as soon, and keeps its name too"


@pytest.mark.parametrize("spoilt", ["{}!", "!{}", "{}{}", "{}\n{}", "{}A"])
def test_a_key_with_something_else_in_it_is_no_key(spoilt: str) -> None:
    text = LedgerKey.new_text()
    with pytest.raises(BadSettings):
        LedgerKey.from_text(spoilt.format(text, text))


def test_a_full_disk_leaves_no_draft_of_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        make_key_file(tmp_path / "ledger.db")
    assert list(tmp_path.iterdir()) == []
