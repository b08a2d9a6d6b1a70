"""Who is compared, with how many subjects, and what state each keeps where."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

LIMIT: Final = "limit"


@dataclass(frozen=True)
class Contender:
    """One row.

    Attributes:
        name: short, for ``--only``.
        title: for people.
        module: in ``benchmarks.contenders``.
        subjects: in a full run; so many that it takes some seconds.
        store: ``sqlite``, ``postgres`` or empty: where it keeps its state.
        prefect: whether it needs a Prefect server, which then keeps its own state in the same kind of store.
        needs: a module without which it cannot run.
    """

    name: str
    title: str
    module: str
    subjects: int
    store: str = ""
    prefect: bool = False
    needs: str = ""

    def missing(self) -> str:
        """The module that it needs and that is not there, or nothing."""
        try:
            return "" if not self.needs or find_spec(self.needs) else self.needs
        except ModuleNotFoundError:
            return self.needs


CONTENDERS: Final = (
    Contender(LIMIT, "The limit: the same calls over the same HTTP stack, nothing stored", "limit", 10_000),
    Contender("bare", "Bare aiohttp, nothing stored", "bare", 1500),
    Contender(
        "flow-sqlite",
        "**This project**: `onboard_batch` with a Prefect server, SQLite",
        "flow",
        20_000,
        "sqlite",
        prefect=True,
        needs="flows.onboard_batch",
    ),
    Contender(
        "flow-postgres",
        "**This project**: `onboard_batch` with a Prefect server, PostgreSQL",
        "flow",
        10_000,
        "postgres",
        prefect=True,
        needs="flows.onboard_batch",
    ),
    Contender("direct-sqlite", "This project without Prefect, SQLite", "direct", 1000, "sqlite"),
    Contender("direct-postgres", "This project without Prefect, PostgreSQL", "direct", 1000, "postgres"),
    Contender("dbos-sqlite", "DBOS, a workflow per subject, SQLite", "dbos_workflows", 150, "sqlite", needs="dbos"),
    Contender(
        "dbos-postgres", "DBOS, a workflow per subject, PostgreSQL", "dbos_workflows", 150, "postgres", needs="dbos"
    ),
    Contender(
        "prefect-tasks-sqlite", "Prefect, a task run per subject, SQLite", "prefect_tasks", 100, "sqlite", prefect=True
    ),
    Contender(
        "prefect-tasks-postgres",
        "Prefect, a task run per subject, PostgreSQL",
        "prefect_tasks",
        100,
        "postgres",
        prefect=True,
    ),
    Contender(
        "prefect-flows-sqlite",
        "Prefect, a flow run per subject with four tasks, SQLite",
        "prefect_flows",
        12,
        "sqlite",
        prefect=True,
    ),
    Contender(
        "prefect-flows-postgres",
        "Prefect, a flow run per subject with four tasks, PostgreSQL",
        "prefect_flows",
        16,
        "postgres",
        prefect=True,
    ),
    Contender("sequential", "A plain script with httpx, one subject after another", "sequential", 100),
)

LARGE: Final = Contender("large", "One large batch, without Prefect, SQLite", "large", 50_000, "sqlite")


def picked(only: Sequence[str]) -> list[Contender]:
    """Those whose names begin with one of these words; all of them if none is given."""
    return [one for one in CONTENDERS if not only or any(one.name.startswith(word) for word in only)]
