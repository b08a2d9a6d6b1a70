"""Keeps what the stand-ins know in a file, so that another start goes on with it. Log-ins and tokens end with the process."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

from vendor_sandbox.clinical_one_world import ClinicalOneWorld
from vendor_sandbox.openspecimen_world import OpenSpecimenWorld
from vendor_sandbox.seeding import SeedRefused

Worlds = tuple[OpenSpecimenWorld, ClinicalOneWorld]


class WorldFile:
    """The file. It holds Python objects: only a file that the sandbox wrote itself may be given."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Worlds | None:
        """The worlds as they were kept; None if there is no file yet.

        Raises:
            SeedRefused: the file cannot be used.
        """
        try:
            openspecimen, clinical_one = pickle.loads(self._path.read_bytes())  # noqa: S301 - our own file, see above
        except FileNotFoundError:
            return None
        except Exception as error:  # pickle raises whatever the objects do
            raise SeedRefused(
                f"{self._path}: cannot be used ({type(error).__name__}); remove it to begin anew"
            ) from error
        # Their ends are moments of a clock that began anew with the machine.
        openspecimen.sessions.clear()
        clinical_one.tokens.clear()
        for modes in clinical_one.studies.values():
            for mode in modes.values():
                mode.exceptions.changes.clear()
        return openspecimen, clinical_one

    def keep(self, openspecimen: OpenSpecimenWorld, clinical_one: ClinicalOneWorld) -> None:
        """Write both worlds, in place of what was kept before."""
        temporary = self._path.with_name(f".{self._path.name}.part")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            pickle.dump((openspecimen, clinical_one), file)
        temporary.replace(self._path)
