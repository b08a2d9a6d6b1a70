"""What one contender is asked to do in one round, handed to its process as a file of JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class Job:
    """One contender's part in one round.

    Attributes:
        contender: its name.
        addresses: where the sandbox listens, as it prints them.
        first: number of the first subject, see ``vendor_sandbox.seed.SeededSubject``.
        subjects: how many.
        at_once: how many subjects are worked at a time, where the contender lets one choose.
        folder: an empty folder of its own.
        database_url: where its state is kept, in SQLAlchemy's form; empty if it keeps none.
        profile: a file for its profile; empty for none.
    """

    contender: str
    addresses: Mapping[str, str]
    first: int
    subjects: int
    at_once: int
    folder: str
    database_url: str = ""
    profile: str = ""

    @property
    def numbers(self) -> range:
        """The numbers of its subjects."""
        return range(self.first, self.first + self.subjects)

    def save(self) -> Path:
        """Write it into its folder."""
        path = Path(self.folder) / "job.json"
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what ``save`` wrote."""
        return cls(**json.loads(path.read_text("utf-8")))
