"""The clocks: what tells one boot from another, on each platform."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from onboarding.clocks import boot_id, boot_seconds, read_boot_id, utc_now


def test_a_boot_has_one_word_and_its_seconds_only_grow() -> None:
    assert boot_id() == boot_id() != ""
    first = boot_seconds()
    assert 0 < first <= boot_seconds()


def test_the_word_comes_from_a_file_or_from_a_command_as_the_platform_has_it(tmp_path: Path) -> None:
    file = tmp_path / "boot_id"
    file.write_text("from-the-file\n")
    command = [sys.executable, "-c", "print('from-the-command')"]
    assert read_boot_id("linux", file, command) == "from-the-file"
    assert read_boot_id("darwin", file, command) == "from-the-command"


def test_without_a_word_nothing_is_made_up(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        read_boot_id("darwin", tmp_path, [sys.executable, "-c", "print('half'); raise SystemExit(1)"])
    with pytest.raises(FileNotFoundError):
        read_boot_id("linux", tmp_path / "none", [])


def test_the_present_is_in_utc() -> None:
    assert utc_now().utcoffset() == timedelta(0)
