"""Whatever is typed: an exit status of the documented five, and never a traceback."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.installation import Installation

COMMANDS = ["subject", "batch", "trigger", "resume", "status", "show", "doctor", "migrate"]
OPTIONS = [
    "--json", "--dry-run", "--limit", "--only", "--vendor-text", "--registration", "--study", "--mode", "--kit",
    "--try-login-again", "--skip-bad", "--template", "--concurrency", "--batch",
    "--help", "--version", "--", "-", "--no-json", "--json=x", "-h", "done", "0", "-1", "1e9",
]  # fmt: skip
WORDS = st.one_of(
    st.sampled_from(OPTIONS),
    st.binary(max_size=12).map(lambda raw: os.fsdecode(raw.replace(b"\0", b""))),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(command=st.sampled_from(COMMANDS), words=st.lists(WORDS, max_size=4))
def test_no_arguments_end_in_a_traceback(installation: Installation, command: str, words: list[str]) -> None:
    ran = installation.run(command, *words)
    assert ran.status in (0, 1, 2, 3, 4)
    assert "Traceback" not in ran.err
    assert "unexpected" not in ran.err, "nor in an error that we did not think of"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nonsense",), "Unknown command"),
        (("--nonsense",), "Unknown"),
        (("subject",), "FILE"),
        (("subject", "a", "b"), "b"),
        (("subject", "--dry-rnu"), "--dry-rnu"),
        (("batch",), "give a FILE"),
        (("batch", "nowhere.csv"), "cannot be read"),
        (("batch", "a", "b"), "b"),
        (("batch", "a.csv", "--template"), "--template"),
        (("batch", "a.csv", "--concurrency", "0"), "--concurrency"),
        (("show",), "CASE"),
        (("status", "--limit", "x"), "--limit"),
        (("status", "--limit", "-1"), "--limit"),
        (("status", "--only", "nonsense"), '"ready", "done", "attention", "cancelled"'),
        (("doctor", "--mode", "nonsense"), '"test", "training", "active"'),
        (("doctor", "--study", "nonsense"), "32 hexadecimal digits"),
        (("doctor", "--registration", "x"), "--registration"),
        (("sandbox", "--control-port", "x"), "--control-port"),
        (("up", "--port", "0"), "--port"),
        (("up", "--port", "x"), "--port"),
        (("setup", "--nonsense"), "--nonsense"),
    ],
)
def test_a_wrong_argument_is_named_and_ends_with_2(
    installation: Installation, words: tuple[str, ...], says: str
) -> None:
    ran = installation.run(*words)
    assert (ran.status, ran.out) == (2, "")
    assert says in "\n".join(ran.said)
    assert installation.requests() == []
