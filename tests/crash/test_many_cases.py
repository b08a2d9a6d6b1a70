"""What the auditor does about a case does not grow with the other cases: it is to judge batches of thousands."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Final

import pytest

from onboarding.intake import IntakeRequest
from tests.crash.auditor import Evidence, applied_late, audit
from tests.crash.evidence import exception_content
from tests.crash.lateness import excused
from tests.crash.test_auditor import onboarded
from vendor_sandbox.seed import SeededSubject

FEW: Final = 10
MANY: Final = 1500
_APART: Final = 100
"""Between the numbers of requests and effects of one pair of cases and of the next."""
Entry = Mapping[str, Any]


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return onboarded(tmp_path_factory.mktemp("many"))


def for_another(asked: IntakeRequest, number: int, days: int) -> IntakeRequest:
    """The same of another subject; ``days`` are its exception's."""
    one = SeededSubject(number)
    assert asked.registration is not None
    assert asked.device is not None
    assert asked.dnd_exception is not None
    visits = tuple(visit.model_copy(update={"dnd": days}) for visit in asked.dnd_exception.visit_dnd)
    changed = {
        "registration": asked.registration.model_copy(update={"id": one.registration_id}),
        "subject": asked.subject.model_copy(update={"subject_id": one.subject_id}),
        "device": asked.device.model_copy(update={"inventory_id": one.inventory_id}),
        "dnd_exception": asked.dnd_exception.model_copy(update={"visit_dnd": visits}),
    }
    return asked.model_copy(update=changed)


def names(asked: IntakeRequest) -> list[Any]:
    """What a request is known by in paths and effects."""
    assert asked.registration is not None
    assert asked.device is not None
    number = asked.registration.id
    return [number, str(number), asked.subject.subject_id, asked.device.inventory_id, exception_content(asked)]


def renamed(entry: Entry, other: Mapping[Any, Any], number: int) -> Entry:
    """An effect or a request of another pair of cases."""
    counts = {name: entry[name] + number * _APART for name in ("n", "request", "effects_before") if name in entry}
    if "key" in entry:
        return {**entry, **counts, "key": {name: other.get(value, value) for name, value in entry["key"].items()}}
    return {**entry, **counts, "path": "/".join(other.get(part, part) for part in entry["path"].split("/"))}


def pair(evidence: Evidence, number: int, *, shared: bool) -> Evidence:
    """The evidence of two cases as that of two others, with the first pair's exception or one of their own."""
    case_ids = {case_id: f"{case_id} {number}" for case_id in evidence.cases}
    asked = {
        case_id: for_another(before, 2 * number + place, 3 if shared else 3 + number)
        for place, (case_id, before) in enumerate(evidence.asked.items())
    }
    other = {
        old: new
        for case_id, before in evidence.asked.items()
        for old, new in zip(names(before), names(asked[case_id]), strict=True)
    }
    there = shared and number > 0
    effects = [entry for entry in evidence.effects if not (there and entry["effect"] == "dnd_exception_created")]
    requests = [entry for entry in evidence.requests if not (there and entry["call"] == "create_exception")]
    return Evidence(
        effects=[renamed(entry, other, number) for entry in effects],
        requests=[renamed(entry, other, number) for entry in requests],
        cases={new: replace(evidence.cases[old], id=new) for old, new in case_ids.items()},
        trails={new: evidence.trails[old] for old, new in case_ids.items()},
        asked={new: asked[old] for old, new in case_ids.items()},
        broken={new: evidence.broken[old] for old, new in case_ids.items()},
    )


@dataclass
class Visits:
    """How often that piece of the evidence was looked at that was looked at most often, and how often one may be."""

    most: int = 0
    limit: float = inf

    def one_more(self, before: int) -> int:
        """Count a visit to a piece that had so many."""
        self.most = max(self.most, before + 1)
        assert self.most <= self.limit, "the more there is to judge, the more often one piece of it is looked at"
        return before + 1


class CountedEntry(dict[str, Any]):
    """An effect or a request."""

    def __init__(self, entry: Entry, visits: Visits) -> None:
        super().__init__(entry)
        self._visits, self._count = visits, 0

    def __getitem__(self, name: str) -> Any:
        self._count = self._visits.one_more(self._count)
        return super().__getitem__(name)


class Counted(list[Any]):
    """A case's trail, or all there is of something."""

    def __init__(self, content: Iterable[Any], visits: Visits) -> None:
        super().__init__(content)
        self._visits, self._count = visits, 0

    def __iter__(self) -> Iterator[Any]:
        self._count = self._visits.one_more(self._count)
        return super().__iter__()


class ByCase(Mapping[str, Any]):
    """Something of each case; whoever goes through all of it looks at each."""

    def __init__(self, content: Mapping[str, Any], visits: Visits) -> None:
        self._content, self._visits = content, visits
        self._counts = dict.fromkeys(content, 0)

    def __getitem__(self, case_id: str) -> Any:
        found = self._content[case_id]
        self._counts[case_id] = self._visits.one_more(self._counts[case_id])
        return found

    def __iter__(self) -> Iterator[str]:
        for case_id in self._content:
            self._counts[case_id] = self._visits.one_more(self._counts[case_id])
            yield case_id

    def __len__(self) -> int:
        return len(self._content)


def many(evidence: Evidence, cases: int, visits: Visits, *, shared: bool, times: int) -> Evidence:
    """As if these two cases had been onboarded again and again for others, and everything had happened so many times."""
    pairs = [pair(evidence, number, shared=shared) for number in range(cases // 2)]
    effects = [CountedEntry(entry, visits) for one in pairs for entry in one.effects for _ in range(times)]
    requests = [CountedEntry(entry, visits) for one in pairs for entry in one.requests for _ in range(times)]
    trails = {case_id: Counted(trail, visits) for one in pairs for case_id, trail in one.trails.items()}
    return replace(
        evidence,
        effects=Counted(effects, visits),
        requests=Counted(requests, visits),
        cases=ByCase({case_id: case for one in pairs for case_id, case in one.cases.items()}, visits),
        trails=ByCase(trails, visits),
        asked=ByCase({case_id: asked for one in pairs for case_id, asked in one.asked.items()}, visits),
        broken=ByCase({case_id: broken for one in pairs for case_id, broken in one.broken.items()}, visits),
        snapshots=[],
        rolled_back=Counted([(SeededSubject(number).inventory_id, -1.0) for number in range(cases)], visits),
    )


@pytest.mark.parametrize("times", [1, 2], ids=["all is well", "everything happened twice"])
@pytest.mark.parametrize("shared", [True, False], ids=["one exception for all", "an exception for each pair"])
def test_however_many_cases_there_are_each_piece_of_evidence_is_looked_at_as_often(
    evidence: Evidence, shared: bool, times: int
) -> None:
    few = Visits()
    for cases, visits in ((FEW, few), (MANY, Visits())):
        visits.limit = few.most or inf
        judged = many(evidence, cases, visits, shared=shared, times=times)
        problems = audit(judged)
        twice = [problem for problem in problems if " happened 2 times to " in problem]
        assert len(twice) == (times - 1) * 2 * cases
        assert (problems == []) == (times == 1)
        assert (applied_late(judged), excused(judged)) == ([], 0)
    assert few.most > 0
