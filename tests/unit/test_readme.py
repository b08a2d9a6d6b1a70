"""The README says what the code does: its tables are compared with the code they describe."""

from pathlib import Path

from onboarding.endings import ENDINGS, Ending
from onboarding.settings import CONNECTION_VARIABLES, PREFIX, Settings

README = Path(__file__).parents[2] / "README.md"
TASKS_ONLY = {Ending.DONE, Ending.ALREADY_DONE, Ending.NOT_REQUESTED}


def _default(value: object) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def test_the_settings_table_is_made_from_the_settings() -> None:
    rows = [
        f"| `{PREFIX}{name.upper()}` | {_default(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    rows += [
        f"| `{PREFIX}{system.upper()}_{name.upper()}` | | {description} |"
        for system, variables in CONNECTION_VARIABLES.items()
        for name, description in variables.items()
    ]
    text = README.read_text("utf-8")
    table = text.split("compared in a test -->\n")[1].split("<!-- end of settings -->")[0]
    assert table.splitlines()[2:] == rows


def test_the_table_of_states_is_made_from_the_endings() -> None:
    text = README.read_text("utf-8")
    for ending, facts in ENDINGS.items():
        if ending not in TASKS_ONLY:
            assert f"| `{ending}` | {facts.state} | {facts.meaning} |" in text


def test_the_documented_request_is_taken() -> None:
    from onboarding.intake import parse_request

    example = README.read_text("utf-8").split("```json\n")[1].split("```")[0]
    assert parse_request(example).subject.mode == "test"
