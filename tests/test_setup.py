"""The scripts behind `make`: a clean environment, and one line when no Python fits."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _run(*command: str, environment: dict[str, str], folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_command_of_make_sees_nothing_that_the_shell_exports_for_others() -> None:
    hostile = {
        "ONBOARDING_OPENSPECIMEN_URL": "https://vendor.example/openspecimen",
        "PREFECT_API_URL": "https://prefect.example/api",
        "https_proxy": "http://proxy.example",
        "PYTHONPATH": "/elsewhere",
        "PYTEST_ADDOPTS": "--collect-only",
    }
    needed = {"PATH": "/usr/bin:/bin", "HOME": "/home/some one", "LANG": "C.UTF-8"}
    seen = _run("sh", "scripts/clean_env.sh", "env", environment=hostile | needed)
    assert dict(line.split("=", 1) for line in seen.stdout.splitlines()) == needed


def test_a_command_of_make_keeps_its_arguments_and_its_exit_status() -> None:
    ran = _run(
        "sh", "scripts/clean_env.sh", "sh", "-c", 'echo "$1"; exit 3', "sh", "a  b", environment={"PATH": "/bin"}
    )
    assert (ran.stdout, ran.returncode) == ("a  b\n", 3)


@pytest.fixture
def bare_project(tmp_path: Path) -> Path:
    """What the installer reads, without an environment."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "interpreter",
    [
        pytest.param("exit 127", id="a shim that does not run"),
        pytest.param('[ "$1" = -c ]', id="fits, but makes no environment"),
    ],
)
def test_without_a_usable_python_one_line_says_what_to_install(bare_project: Path, interpreter: str) -> None:
    shim = bare_project / "python"
    shim.write_text(f"#!/bin/sh\n{interpreter}\n")
    shim.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(shim)}
    ran = _run("sh", "scripts/install.sh", "run", environment=environment, folder=bare_project)
    assert ran.returncode == 1
    assert not ran.stdout
    [line] = ran.stderr.splitlines()
    assert "install Python 3.13 (3.11 to 3.14 will do)" in line
    assert not (bare_project / ".venv").exists()
