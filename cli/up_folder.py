"""The folder in which `onboard up` keeps everything: one start at a time, the same ports for the stand-ins each time."""

import fcntl
import json
import os
import shlex
import sysconfig
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import BaseModel, SecretStr

from cli import local
from cli.settings_file import has_password
from onboarding.errors import BadInput
from onboarding.settings import PREFIX, ClinicalOneConnection, OpenSpecimenConnection, Settings

SERVED: Final = "every deployment is served"
"""What the process that serves them writes into its log when it does."""
_SANDBOX_PORTS: Final = ("openspecimen", "clinical-one", "token", "control")
_LEDGER_URL: Final = f"{PREFIX}LEDGER_URL"
_MODELS: Final[Mapping[str, type[BaseModel]]] = {
    PREFIX: Settings,
    f"{PREFIX}OPENSPECIMEN_": OpenSpecimenConnection,
    f"{PREFIX}CLINICAL_ONE_": ClinicalOneConnection,
}
_NO_SECRETS: Final = {
    f"{PREFIX}SETTINGS_FILE",
    *(
        prefix + name.upper()
        for prefix, model in _MODELS.items()
        for name, field in model.model_fields.items()
        if field.annotation not in (SecretStr, SecretStr | None)
    ),
}


@dataclass(frozen=True)
class UpFolder:
    """The folder, and the open file whose lock says that something works in it; whatever is started holds it open too."""

    path: Path
    lock: int

    def sandbox_ports(self) -> dict[str, int]:
        """The ports of the stand-ins, the same each time: cases keep to the addresses that they were opened for.

        Raises:
            BadInput: one of them is in use.
        """
        file = self.path / "ports.json"
        if file.exists():
            ports: dict[str, int] = json.loads(file.read_text("utf-8"))
        else:
            ports = _free_ports()
            file.write_text(json.dumps(ports), "utf-8")
        for name, port in ports.items():
            if why := local.port_problem(port):
                what = f"port {port}, of the stand-in {name}: {why}. The cases of {self.path} keep to it: "
                raise BadInput([f"{what}free it, or begin anew with --folder OTHER."])
        return ports

    def log(self, name: str) -> Path:
        """An empty log; that of the start before is kept beside it."""
        file = self.path / name
        if file.exists():
            file.replace(file.with_name(f"{name}.before"))
        return file

    def write_environment(self, variables: Mapping[str, str], left_out: Collection[str] = ()) -> Path:
        """Write the variables with which commands in other terminals work on the same; readable by the owner alone.

        A shell that reads it finds `onboard` too, and Prefect's own command.

        ``left_out``: names of variables that are not written; the file says so.
        """
        file = self.path / "environment"
        lines = [f"# Secret, so not in this file; set in this terminal: {name}\n" for name in sorted(left_out)]
        if _LEDGER_URL in left_out:  # else commands would take the ledger that is the default
            lines.append(f': "${{{_LEDGER_URL}:?holds a password: set it in this terminal first}}"\n')
        kept = sorted((name, value) for name, value in variables.items() if name not in left_out)
        lines += [f"export {name}={shlex.quote(value)}\n" for name, value in kept]
        commands = shlex.quote(sysconfig.get_path("scripts"))
        lines.append(f'case ":$PATH:" in *:{commands}:*) ;; *) export PATH={commands}:"$PATH" ;; esac\n')
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            os.fchmod(out.fileno(), 0o600)  # a file that stood keeps its mode otherwise
            out.write("".join(lines))
        return file


def secret_names(variables: Mapping[str, str]) -> list[str]:
    """Those of an installation's variables whose value is a secret, or could be one: what is not known to be none."""
    return sorted(
        name
        for name, value in variables.items()
        if (name.startswith(PREFIX) and name not in _NO_SECRETS)
        or (name.startswith("PG") and ("PASSWORD" in name or "SECRET" in name))
        or (name == _LEDGER_URL and has_password(value))
    )


def _free_ports() -> dict[str, int]:
    ports: dict[str, int] = {}
    while len(set(ports.values())) < len(_SANDBOX_PORTS):
        ports = {name: local.free_port() for name in _SANDBOX_PORTS}
    return ports


@contextmanager
def up_folder(path: Path) -> Iterator[UpFolder]:
    """The folder, made if need be, for the duration of the block. Raises ``BadInput`` if it is in use or cannot be used."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise BadInput([f"--folder: {path} cannot be used ({error.strerror})."]) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            before = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
            what = f"'onboard up' (process {before or 'unknown'}), or what it started, still runs in {path}. "
            raise BadInput(
                [f"{what}Stop it there with Ctrl-C, or start another: --folder OTHER --port OTHER."]
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield UpFolder(path, lock)
    finally:
        os.close(lock)
