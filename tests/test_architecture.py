"""The shape of the project: imports run one way, what is imported is declared, and the locks can be trusted."""

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

from tests.support.imports import Import, imports_below, is_within

ROOT = Path(__file__).resolve().parent.parent
# Each may import those after it, never those before it.
ORDER = ("cli", "flows", "tasks", "blocks", "onboarding")
SANDBOX = "vendor_sandbox"
ROOMS = (*ORDER, SANDBOX)

# Inside the core: what a module must not import. Each line is a direction that the design depends on.
FORBIDDEN_INSIDE = {
    "onboarding": ("prefect",),
    "onboarding.errors": ("onboarding",),
    "onboarding.identifiers": (
        "onboarding.request",
        "onboarding.intake",
        "onboarding.settings",
        "onboarding.vendors",
        "onboarding.ledger",
        "onboarding.steps",
    ),
    "onboarding.request": (
        "onboarding.intake",
        "onboarding.settings",
        "onboarding.vendors",
        "onboarding.ledger",
        "onboarding.steps",
    ),
    "onboarding.settings": ("onboarding.vendors", "onboarding.ledger", "onboarding.steps"),
    "onboarding.vendors": ("onboarding.ledger", "onboarding.steps"),
    "onboarding.keys": ("onboarding.vendors", "onboarding.ledger", "onboarding.steps"),
    "onboarding.clocks": ("onboarding.vendors", "onboarding.ledger", "onboarding.steps"),
    "onboarding.ledger": ("onboarding.vendors", "onboarding.steps"),
}


def _against_the_order(found: Import) -> bool:
    importer, imported = found.importer.partition(".")[0], found.imported.partition(".")[0]
    if importer == imported or imported not in ROOMS:
        return False
    if importer == SANDBOX:
        return True
    if imported == SANDBOX:
        return importer != "cli"
    return ORDER.index(imported) < ORDER.index(importer)


def _against_the_core(found: Import) -> bool:
    return any(
        is_within(found.importer, module)
        and any(is_within(found.imported, target) and not is_within(found.imported, module) for target in forbidden)
        for module, forbidden in FORBIDDEN_INSIDE.items()
    )


def _violations(root: Path) -> list[str]:
    return [
        str(found) for found in imports_below(root, *ROOMS) if _against_the_order(found) or _against_the_core(found)
    ]


def test_imports_run_one_way() -> None:
    assert not _violations(ROOT)


def test_there_is_something_to_check() -> None:
    assert {found.importer.partition(".")[0] for found in imports_below(ROOT, *ROOMS)} >= {"onboarding"}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("onboarding/steps/device.py", "from flows import onboard_subject"),
        ("onboarding/steps/device.py", "def run() -> None:\n    import prefect"),
        ("onboarding/steps/device.py", "import importlib\nimportlib.import_module('prefect.runtime')"),
        ("onboarding/vendors/gate.py", "from onboarding import ledger"),
        ("onboarding/vendors/gate.py", "from ..ledger import store"),
        ("onboarding/vendors/__init__.py", "from .. import ledger"),
        ("onboarding/errors.py", "from onboarding.settings import Settings"),
        ("onboarding/settings.py", "if True:\n    from onboarding.ledger.store import Ledger"),
        ("blocks/clinical_one.py", "import tasks.device"),
        ("tasks/device.py", "from flows.endings import Ending"),
        ("flows/onboard_subject.py", "import cli.main"),
        ("flows/onboard_subject.py", "import vendor_sandbox"),
        (
            "vendor_sandbox/state.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from onboarding import errors",
        ),
    ],
)
def test_a_planted_violation_is_caught(tmp_path: Path, module: str, source: str) -> None:
    planted = tmp_path / module
    planted.parent.mkdir(parents=True)
    planted.write_text(source)
    [violation] = _violations(tmp_path)
    assert violation.startswith(module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cli/sandbox.py", "import vendor_sandbox\nimport flows\nfrom onboarding import ledger"),
        ("flows/onboard_subject.py", "from tasks.device import register\nimport prefect"),
        ("onboarding/steps/device.py", "from onboarding.ledger import store\nfrom onboarding.vendors import gate"),
        ("onboarding/vendors/gate.py", "from .transport import Wire\nfrom onboarding.errors import Refused"),
        ("onboarding/ledger/store.py", "from onboarding.errors import LeaseLost\nimport prefectural"),
    ],
)
def test_an_allowed_import_is_let_through(tmp_path: Path, module: str, source: str) -> None:
    planted = tmp_path / module
    planted.parent.mkdir(parents=True)
    planted.write_text(source)
    assert not _violations(tmp_path)


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _declared(*groups: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared = [*project["project"]["dependencies"], *chain(*(project["dependency-groups"][name] for name in groups))]
    return {_normalised(re.split(r"[^\w.-]", requirement, maxsplit=1)[0]) for requirement in declared}


def _undeclared(*folders: str, groups: tuple[str, ...] = ()) -> list[str]:
    ours = {*ROOMS, "tests", "benchmarks"}
    distributions = packages_distributions()
    declared = _declared(*groups)
    missing = []
    for found in imports_below(ROOT, *folders):
        top = found.imported.partition(".")[0]
        if top in sys.stdlib_module_names or top in ours:
            continue
        # What is not installed here (the peers of the benchmarks) is taken to be named as it is imported.
        if not {_normalised(name) for name in distributions.get(top, [top])} & declared:
            missing.append(str(found))
    return missing


def test_what_the_project_imports_is_declared() -> None:
    assert not _undeclared(*ROOMS)


def test_what_the_tests_import_is_declared() -> None:
    assert not _undeclared("tests", groups=("test",))


def test_what_the_benchmarks_import_is_declared() -> None:
    assert not _undeclared("benchmarks", groups=("bench",))


LOCKS = ("run", "test", "bench")


def _lock(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")


def _pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", _lock(name), re.MULTILINE))


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_requirement_is_pinned_and_hashed(name: str) -> None:
    text = re.sub(r"\s*#.*", "", _lock(name)).replace("\\\n", " ")
    requirements = [line for line in text.splitlines() if line.strip()]
    assert len(requirements) > 50
    for requirement in requirements:
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+ .*--hash=sha256:[0-9a-f]{64}\b", requirement), requirement


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_no_host_and_no_folder(name: str) -> None:
    assert not re.search(r"://|@ |file:|--(extra-)?index|--find-links|--trusted|/(usr|opt|home|tmp)/", _lock(name))


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_every_declared_requirement(name: str) -> None:
    assert {_normalised(pinned) for pinned in _pins(name)} >= _declared(*([] if name == "run" else [name]))


@pytest.mark.parametrize("name", LOCKS)
def test_everything_runs_on_the_versions_that_a_run_uses(name: str) -> None:
    assert _pins("run").items() <= _pins(name).items()
