"""Every fault at every request of the flow leads to the class and the next action of the protocol, and no effect twice."""

import pytest

from tests.steps.faults import cells_of_effects, cells_of_reads, cells_of_tokens
from tests.steps.matrix import Cell, Played, check, play_all

CELLS = [*cells_of_reads(), *cells_of_effects(), *cells_of_tokens()]


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Played]:
    """The cells that this run asks for, played together."""
    wanted = {item.name for item in request.session.items if item.path == request.path}  # type: ignore[attr-defined]
    chosen = [cell for cell in CELLS if any(f"[{cell}]" in name for name in wanted)]
    return play_all(chosen, tmp_path_factory.mktemp("matrix"))


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_fault_leads_to_its_class_and_the_case_goes_on(cell: Cell, played: dict[str, Played]) -> None:
    result = played[str(cell)]
    if isinstance(result, BaseException):
        raise result
    check(cell, result)
