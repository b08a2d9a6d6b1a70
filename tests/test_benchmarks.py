"""Benchmarks are code too: who takes part does all of the work, and the page that people complete is kept."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.batches import write_csv
from benchmarks.checking import problems
from benchmarks.report import BEGIN, END, markdown_table, save_report, summary
from benchmarks.rounds import Failed, play
from benchmarks.servers import Sandbox, Servers, running_sandbox_process
from benchmarks.subjects import PER_SUBJECT, SHARED, Calls, digest, request_of
from benchmarks.table import CONTENDERS, LARGE, Contender, picked
from onboarding.batch.reading import open_batch
from vendor_sandbox.seed import SeededSubject

NUMBERS = range(1, 4)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox_process(latency_ms=0) as running:
        yield running


@pytest.mark.parametrize("contender", [*picked(["limit", "direct-sqlite"]), LARGE], ids=lambda one: one.name)
def test_a_contender_onboards_its_subjects_with_the_calls_of_all_others(sandbox: Sandbox, contender: Contender) -> None:
    figures = play(contender, Servers(sandbox), subjects=len(NUMBERS), at_once=2)
    assert figures["subjects"] == len(NUMBERS)
    assert {call: figures["counts"][call] for call in PER_SUBJECT} == dict.fromkeys(PER_SUBJECT, len(NUMBERS))
    assert min(figures[name] for name in ("wall_s", "cpu_s", "peak_mb")) > 0


def test_the_batch_file_asks_for_what_the_requests_ask_for(tmp_path: Path) -> None:
    write_csv(tmp_path / "batch.csv", NUMBERS)
    with open_batch(tmp_path / "batch.csv") as file:
        assert [row.request() for row in file] == [request_of(number) for number in NUMBERS]


def test_a_contender_whose_process_fails_is_told_with_the_end_of_its_log(sandbox: Sandbox) -> None:
    stranger = Contender("nobody", "Nobody", "nobody", 1)
    with pytest.raises(Failed, match="nobody ended with 1:"):
        play(stranger, Servers(sandbox), subjects=1, at_once=1)


ADDRESSES = {
    "openspecimen_url": "http://127.0.0.1:1/openspecimen",
    "clinical_one_url": "http://127.0.0.1:2",
    "token_url": "http://127.0.0.1:3/token",
}


def _effects() -> list[dict[str, Any]]:
    """What a contender that does its work leaves in the effect log."""
    calls = Calls(ADDRESSES)
    effects = [_effect("dnd_exception_created", {"dnd_exception_id": "E"}, calls.exceptions()[1].body)]
    for number in NUMBERS:
        subject, (_, update, _, _, device) = SeededSubject(number), calls.of_subject(number)
        effects.append(_effect("registration_updated", {"registration_id": subject.registration_id}, update.body))
        effects.append(_effect("device_registered", {"inventory_id": subject.inventory_id}, device.body))
    return effects


def _effect(name: str, key: dict[str, Any], body: bytes | None) -> dict[str, Any]:
    return {"effect": name, "key": key, "body_sha256": digest(body)}


COUNTS = dict.fromkeys(PER_SUBJECT, len(NUMBERS)) | dict.fromkeys(SHARED, 1)


def test_a_contender_that_does_its_work_has_no_deviations() -> None:
    assert problems(_effects(), COUNTS, NUMBERS, ADDRESSES) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda effects: effects.pop(), "device_registered of .*: 0 times"),
        (lambda effects: effects.append(effects[0]), "dnd_exception_created of study: 2 times"),
        (lambda effects: effects[1].update(body_sha256=digest(b"{}")), "registration_updated of .*: 0 times"),
        (
            lambda effects: effects.append(_effect("registration_deleted", {"registration_id": 1}, None)),
            "not asked for",
        ),
    ],
    ids=["left out", "done twice", "another body", "something else"],
)
def test_work_that_is_not_done_as_by_all_others_is_noticed(change: Any, problem: str) -> None:
    effects = _effects()
    change(effects)
    lines = problems(effects, COUNTS, NUMBERS, ADDRESSES)
    assert any(re.search(problem, line) for line in lines), lines


@pytest.mark.parametrize("call", [*PER_SUBJECT, *SHARED])
def test_a_call_that_is_left_out_is_noticed(call: str) -> None:
    [line] = problems(_effects(), COUNTS | {call: 0}, NUMBERS, ADDRESSES)
    assert line.startswith(f"{call}: ")


def _played(name: str, turn: int, wall_s: float) -> dict[str, Any]:
    figures = {
        "wall_s": wall_s,
        "cpu_s": 1.0,
        "loop_cpu_s": 0.9,
        "server_cpu_s": 0.0,
        "sandbox_cpu_s": 0.5,
        "peak_mb": 70.0,
        "load": 1.0,
    }
    return {"round": turn, "contender": name, "subjects": 100, "requests": 504, **figures}


def test_ratios_are_taken_within_a_round_and_then_the_median_of_them() -> None:
    walls = {"limit": (1.0, 2.0, 4.0), "bare": (0.5, 4.0, 2.0)}
    played = [_played(name, turn, wall) for name, all_walls in walls.items() for turn, wall in enumerate(all_walls)]
    limit, bare = summary(played, picked(["limit", "bare"]))
    assert limit["ratio"] == (1.0, 1.0, 1.0)
    assert bare["ratio"] == (2.0, 0.5, 2.0)
    assert bare["rate"] == (50.0, 25.0, 200.0)
    assert "| 50.0 (25.0 to 200) | 200 % |" in markdown_table([bare])


def test_new_figures_keep_what_people_wrote_around_the_old_ones(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"# Above\n{BEGIN}\nold figures\n{END}\nWhere it stops and why.\n")
    rows = summary([_played("limit", 0, 1.0)], picked(["limit"]))
    run = {
        "at": "2026-01-02T03:04:05+00:00",
        "minutes": 1,
        "rounds": 1,
        "scale": 1,
        "latency_ms": 5.0,
        "at_once": 64,
        "rows": rows,
    }
    save_report(json.loads(json.dumps(run)), tmp_path)
    text = page.read_text()
    assert text.startswith(f"# Above\n{BEGIN}")
    assert text.endswith(f"{END}\nWhere it stops and why.\n")
    assert "old figures" not in text
    assert "2026-01-02" in text
    assert (tmp_path / "performance.svg").read_text().startswith("<svg ")


def test_every_contender_is_picked_by_the_beginning_of_its_name() -> None:
    assert picked([]) == list(CONTENDERS)
    assert [one.name for one in picked(["dbos"])] == ["dbos-sqlite", "dbos-postgres"]


def test_runs_are_compared_by_the_medians_of_their_time_inside_running() -> None:
    from benchmarks.running import EMPTY, OURS, UNLIMITED, Timed, report

    empty = [Timed(5.0, 0.1), Timed(6.0, 0.2), Timed(7.0, 9.0)]
    timed = {EMPTY: empty, UNLIMITED: [Timed(5.0, 0.15)] * 3, OURS: [Timed(5.0, 0.3)] * 3}
    lines = report(timed).splitlines()
    assert lines[0] == f"{EMPTY}: 0.200 s inside Running (0.100 to 9.000, 3 runs), after 6.0 s"
    assert lines[3] == f"{OURS}: 1.50 times {EMPTY}, 2.00 times {UNLIMITED}"
