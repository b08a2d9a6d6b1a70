"""What is printed where: tables on terminals of 80 columns and in pipes, any encoding, and what a look costs."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.installation import COMMAND, Installation
from tests.support.terminal import on_terminal
from vendor_sandbox import seed

DRIVER = """
import sys
from cli.main import main
sys.argv[0] = "onboard"
try:
    main()
finally:
    heavy = {"aiohttp", "alembic", "fastapi", "httpx", "prefect", "uvicorn", "vendor_sandbox"}
    print("IMPORTED", *sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


@pytest.fixture
def cases(installation: Installation) -> list[str]:
    """A case that is done, one that needs attention and one that waits."""
    installation.run("subject", installation.request())
    refused: dict[str, Any] = {"subject__subject_id": seed.subject_id(2), "registration__id": 1}
    installation.run("subject", installation.request(**refused))
    installation.fault("openspecimen", "throttle", call="update_registration", retry_after=600)
    waits: dict[str, Any] = {
        "subject__subject_id": seed.subject_id(6),
        "registration__id": 6,
        "registration__participant": {"id": 12},
    }
    installation.run("subject", installation.request(**waits))
    found = {case["status"]: case["case"] for case in installation.cases()}
    assert set(found) == {"done", "attention", "ready"}
    return list(found.values())


def test_a_terminal_of_80_columns_shows_every_case_whole(installation: Installation, cases: list[str]) -> None:
    printed = on_terminal(installation, "status", columns=80, term="dumb")
    table = [line for line in printed.splitlines() if line[:1] in "┏┃┡│└"]
    assert table
    assert max(map(len, table)) <= 80
    for case in cases:
        assert case in printed, "an id that is broken cannot be copied"
    for word in ("attention", "registration refused", "THROTTLED, due", "IDENTITY_CONFLICT: Another subject's"):
        assert word in printed, "and words can be read"
    assert cases[0] in on_terminal(installation, "show", cases[0], columns=80, term="dumb")


def test_in_a_pipe_there_is_no_colour_and_a_line_is_a_line(installation: Installation, cases: list[str]) -> None:
    for words in (("status",), ("show", cases[1]), ("doctor",), ("subject", installation.request(), "--dry-run")):
        ran = installation.run(*words)
        assert "\x1b" not in ran.out
        assert "Traceback" not in ran.err
    rows = [line for line in installation.run("status").out.splitlines() if line.startswith("│")]
    assert [row.split("│")[1].strip() for row in rows if row.split("│")[1].strip()] == [
        case["case"] for case in installation.cases()
    ]
    listed = installation.run("show", cases[1]).out
    assert (
        "IDENTITY_CONFLICT: Another subject's case holds this registration or device; find out who is right, correct"
        in (listed)
    )


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "utf-16"])
def test_any_encoding_of_the_output_will_do(installation: Installation, cases: list[str], encoding: str) -> None:
    done = subprocess.run(
        [*COMMAND, "show", cases[0]],
        env=installation.changed({"PYTHONIOENCODING": encoding}),
        cwd=installation.folder,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stderr.decode(encoding) == ""
    assert cases[0] in done.stdout.decode(encoding)


@pytest.mark.parametrize("columns", ["1", "20", "100000", "-5", "x"])
def test_any_width_of_the_output_will_do(installation: Installation, cases: list[str], columns: str) -> None:
    for words in (("status",), ("show", cases[0]), ("--help",)):
        assert installation.run(*words, variables={"COLUMNS": columns}).status == 0


def test_json_lines_hold_no_line_break_and_only_ascii(installation: Installation, cases: list[str]) -> None:
    for words in (("status", "--json"), ("show", cases[0], "--json"), ("doctor", "--json")):
        out = installation.run(*words).out
        assert out.isascii()
        assert all(isinstance(json.loads(line), dict) for line in out.splitlines())


@pytest.mark.parametrize("words", [("status",), ("status", "--json"), ("show", "CASE"), ("show", "CASE", "--json")])
def test_looking_imports_neither_prefect_nor_a_client_nor_migrations(
    installation: Installation, words: tuple[str, ...]
) -> None:
    installation.run("subject", installation.request())
    case = installation.case()["case"]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, *(case if word == "CASE" else word for word in words)],
        env=installation.environment,
        cwd=installation.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert case in done.stdout
    assert done.stderr == "IMPORTED\n"
