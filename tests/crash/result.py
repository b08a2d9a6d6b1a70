"""What random worlds came to: kills, faults, violations, and which states met which faults."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from onboarding.ledger.states import StepName
from tests.crash.auditor import DUPLICATES
from tests.crash.worlds import STEP_OF, STORM

LOSSES: Final = frozenset({"none_lost", "all_settled"})
_COUNTS: Final = ("worlds", "kills", "idle_kills", "faults", "effects", "cases", "late", "repeated_late")
_STATES: Final = ("pending", "open", "open in doubt")


@dataclass
class Result:
    """What one world, or many, came to.

    Attributes:
        kills, idle_kills: of runners that held a lease, and of others.
        late, repeated_late: effects applied after their quiet time, and how many were repeated for that.
        decided: a person's decisions, by the reason for which a case asked.
        coverage: kills by the state of the leased case's step and the fault that step had met last.
    """

    worlds: int = 0
    kills: int = 0
    idle_kills: int = 0
    faults: int = 0
    effects: int = 0
    cases: int = 0
    late: int = 0
    repeated_late: int = 0
    problems: list[str] = field(default_factory=list)
    decided: Counter[str] = field(default_factory=Counter)
    boundaries: Counter[str] = field(default_factory=Counter)
    coverage: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Result") -> None:
        """Count another one in."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.problems += other.problems
        self.decided += other.decided
        self.boundaries += other.boundaries
        self.coverage += other.coverage

    @property
    def duplicates(self) -> int:
        """Things that happened twice, but for what was applied after its quiet time."""
        return sum(any(f"{rule}:" in problem for rule in DUPLICATES) for problem in self.problems)

    @property
    def losses(self) -> int:
        """Cases that were lost, or hang."""
        return sum(any(f"{rule}:" in one for rule in LOSSES) for one in self.problems)

    def lines(self) -> Iterator[str]:
        """The figures, for people."""
        others = len(self.problems) - self.duplicates - self.losses
        yield f"{self.kills} kills of runners with a lease ({self.idle_kills} more of runners without one)"
        yield f"{self.worlds} worlds, {self.cases} cases, {self.effects} effects, {self.faults} faults"
        yield f"duplicates {self.duplicates}, losses {self.losses}, other violations {others}"
        yield f"applied after their quiet time {self.late}, of these repeated {self.repeated_late}"
        if not self.problems and self.kills:  # none in n: the rule of three
            yield f"with 95 % confidence fewer than {3 / self.kills:.2%} of kills lose or repeat anything"
        yield f"decided by a person: {_counted(self.decided) or 'nothing'}"
        yield f"boundaries reached: {_counted(self.boundaries)}"
        yield from self._table()
        yield from self.problems

    def holes(self) -> list[str]:
        """States and faults that could meet and did not."""
        return [pair for pair in possible_pairs() if not self.coverage[pair]]

    def _table(self) -> Iterator[str]:
        kinds = sorted({pair.split(" | ")[1] for pair in [*self.coverage, *possible_pairs()]})
        states = sorted({pair.split(" | ")[0] for pair in [*self.coverage, *possible_pairs()]})
        yield "kills by the leased step's state and the fault it had met last: " + ", ".join(kinds)
        possible = set(possible_pairs())
        for state in states:
            counts = [(self.coverage[f"{state} | {kind}"], f"{state} | {kind}" in possible) for kind in kinds]
            yield f"  {state:28}" + " ".join(f"{count if count or can else '-':>5}" for count, can in counts)
        yield f"never met: {', '.join(self.holes()) or 'none of those that could'}"


def possible_pairs() -> list[str]:
    """Every state of a step in which a runner can die, with every kind of fault that the step's calls can meet."""
    pairs = []
    for step in StepName:
        kinds = sorted({"none", *(fault.kind for fault in STORM if STEP_OF[fault.call] is step)})
        states = _STATES[:1] if step is StepName.DISPENSATION else _STATES
        pairs += [f"{step} {state} | {kind}" for state in states for kind in kinds]
    return pairs


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())
