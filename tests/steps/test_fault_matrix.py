"""Every fault at every request of the flow leads to the class and the next action of the protocol, and no effect twice."""

import pytest

from tests.steps.faults import cells_of_effects, cells_of_probes, cells_of_reads, cells_of_tokens
from tests.steps.matrix import Cell, Results, asked_for, check, play_all

CELLS = [*cells_of_reads(), *cells_of_effects(), *cells_of_tokens(), *cells_of_probes()]


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The cells that this run asks for, played together."""
    return play_all(asked_for(request, CELLS), tmp_path_factory.mktemp("matrix"))


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_fault_leads_to_its_class_and_the_case_goes_on(cell: Cell, played: Results) -> None:
    check(cell, played[str(cell)])
