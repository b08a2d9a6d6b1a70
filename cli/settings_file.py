"""Writing the settings file: what the environment sets otherwise than by default. Never the ledger's key."""

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from cli.told import Outcome, Told
from onboarding.errors import BadSettings
from onboarding.settings import PREFIX, Settings, default_ledger_url, load_settings, settings_file

_NEVER_WRITTEN: Final = ("ledger_key",)


def write_settings(environ: Mapping[str, str] = os.environ) -> tuple[Settings, Told]:
    """Keep the environment's settings in the settings file, so that every door finds them; gives what is in force then.

    Raises:
        BadSettings: a setting is wrong, the file names another ledger than the environment, or it cannot be written;
            nothing was written.
    """
    path = settings_file(environ)
    try:
        return _written(path, environ)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise BadSettings(
            [
                f"{PREFIX}SETTINGS_FILE: {path} cannot be written ({why}); name a file in a folder that this user may write to."
            ]
        ) from None


def _written(path: Path, environ: Mapping[str, str]) -> tuple[Settings, Told]:
    if path.exists() and not path.is_file():
        raise BadSettings([f"{PREFIX}SETTINGS_FILE: {path} is no file; name one, or unset it."])
    # A file that is to be made is no mistake here.
    settings = load_settings(environ if path.exists() else {**environ, f"{PREFIX}SETTINGS_FILE": os.devnull})
    stored = tomllib.loads(path.read_text("utf-8")) if path.exists() else {}
    _same_ledger(path, stored, settings)
    given = {
        name: _plain(getattr(settings, name))
        for name in Settings.model_fields
        if name not in _NEVER_WRITTEN and environ.get(PREFIX + name.upper(), "") != ""
    }
    wanted = {
        **stored,
        **{name: value for name, value in given.items() if name in stored or not _is_default(name, value)},
    }
    changes = [name for name in wanted if stored.get(name) != wanted[name]]
    if path.exists() and not changes:
        _keep_private(path)
        return settings, Told(f"settings file {path}", Outcome.LEFT)
    if not changes:
        return settings, Told("settings file", Outcome.LEFT, "all settings have their defaults; no file is needed")
    outcome = Outcome.CHANGED if path.exists() else Outcome.CREATED
    _write(path, stored, wanted)
    return settings, Told(f"settings file {path}", outcome, ", ".join(changes))


def _same_ledger(path: Path, stored: Mapping[str, Any], settings: Settings) -> None:
    named = stored.get("ledger_url")
    if isinstance(named, str) and named != settings.ledger_url:
        here, there = shown_url(settings.ledger_url), shown_url(named)
        there = "it with another password or other options" if there == here else there
        what = f"the environment names the ledger {here}, but {path} names {there}; cases are in one ledger only. "
        raise BadSettings([f"{PREFIX}LEDGER_URL: {what}Unset the variable, or change ledger_url in the file."])


def shown_url(url: str) -> str:
    """A ledger's address without its password, and without its options, which can hold one too."""
    try:
        return make_url(url).set(query={}).render_as_string(hide_password=True)
    except ArgumentError:
        return "that cannot be read"


def has_password(url: str) -> bool:
    """Whether a ledger's address holds a password, or could hold one."""
    try:
        read = make_url(url)
    except ArgumentError:
        return True
    return read.password is not None or any("password" in name for name in read.query)


def _is_default(name: str, value: object) -> bool:
    default = default_ledger_url() if name == "ledger_url" else _plain(Settings.model_fields[name].default)
    return value == default


def _plain(value: object) -> Any:
    """A setting as TOML has it."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _write(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Replace the file at once, readable by its owner alone; lines and comments that stay right are kept."""
    text = (
        path.read_text("utf-8")
        if stored
        else "# Settings of onboard, in lower case without the prefix; see the README.\n"
    )
    for name, value in wanted.items():
        if stored.get(name) != value:
            line = f"{name} = {json.dumps(value, ensure_ascii=False)}"
            literal = line.replace("\\", r"\\")
            text, found = re.subn(rf"^{name}\s*=.*$", literal, text, count=1, flags=re.MULTILINE)
            text = text if found else f"{text.rstrip()}\n{line}\n".lstrip()
    if not _reads_as(text, wanted):  # a value over several lines, for instance
        text = "".join(f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in wanted.items())
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _reads_as(text: str, wanted: Mapping[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == wanted
    except tomllib.TOMLDecodeError:
        return False


def _keep_private(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
