"""`onboard trigger` against an API that is busy, breaks off, hangs, refuses, or forgets: what is said, sent and left alone."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from cli.local import free_port
from onboarding.endings import ENDINGS, Ending
from tests.cli.trigger_lab import DEPLOYMENT_ID, ScriptedApi, run, scripted_api
from tests.support.installation import Installation
from tests.support.requests import INVENTORY_ID_DASHED, LEFT_OUT, MARKER, PARTICIPANT, STUDY_ID, SUBJECT_ID, example
from tests.vendors.scripted_server import Exchange, answers, in_turn

CASE = "7K3Q9M2XW4TB"
_KEY = re.compile(r"--idempotency-key (onboard-[0-9a-f]{32}-[0-9]+):")


@pytest.fixture
async def api(installation: Installation) -> AsyncIterator[ScriptedApi]:
    async with scripted_api(installation) as running:
        yield running


async def hangs(exchange: Exchange) -> None:
    await exchange.until_client_leaves()


async def cuts(exchange: Exchange) -> None:
    await exchange.cut()


async def test_a_request_is_started_by_the_deployments_name_and_says_where_to_look(
    api: ScriptedApi, installation: Installation
) -> None:
    ran = await api.trigger(installation.request())
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == f"Started run run-1: {api.server.url}/runs/flow-run/run-1\n"
    assert api.requests[0].call == "GET /api/deployments/name/onboard-subject/onboard-subject"
    (sent,) = api.sent
    assert sent["parameters"] == {"request": example()}


async def test_the_vendors_spelling_is_sent_as_the_form_has_it_and_is_the_same_wish(
    api: ScriptedApi, installation: Installation
) -> None:
    spelt = {
        "subject": {"subjectId": SUBJECT_ID.lower(), "mode": "test", "studyId": STUDY_ID},
        "registration": {"ppid": " ASCI123 ", "cpId": "3", "id": "1"},
        "device": {"inventoryId": INVENTORY_ID_DASHED, "mSubjectId": "M-001", "subjectNumber": "siteA-1"},
    }
    ours = example(dnd_exception=LEFT_OUT)
    ours["registration"] = {"id": 1, "cp_id": 3, "ppid": "ASCI123"}
    first = await api.trigger("-", "--json", given=json.dumps(spelt).encode())
    second = await api.trigger(installation.request(ours), "--json")
    assert [one["parameters"] for one in api.sent] == [{"request": ours}] * 2
    (created,), (stood,) = first.json_lines, second.json_lines
    assert (created["created"], stood["created"]) == (True, False)
    assert created["flow_run"] == stood["flow_run"]


async def test_no_participants_details_leave_this_machine(api: ScriptedApi, installation: Installation) -> None:
    person = installation.request(registration__participant=PARTICIPANT, registration__op_comments=f"see {MARKER}")
    ran = await api.trigger(person)
    assert (ran.status, ran.out) == (2, "")
    named = {line.partition(":")[0] for line in ran.said}
    assert {"registration.participant.first_name", "registration.participant.pmis", "registration.op_comments"} <= named
    assert "registration.participant.id" not in named
    assert all("never enter Prefect" in line for line in ran.said)
    assert MARKER not in ran.err
    cleared = installation.request(registration__participant={"id": 2, "firstName": None})
    assert (await api.trigger(cleared)).status == 2, "that a name is cleared is a person's detail, too"
    assert api.requests == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "give one of FILE"),
        (("-", "--case", CASE), "give one of FILE"),
        (("--case", CASE, "--batch", CASE), "give one of FILE"),
        (("--case", f"Jane {MARKER}"), "case_id: must be the 12 letters and digits"),
        (("--batch", f"Jane {MARKER}"), "batch_id: must be the letters and digits"),
        (("--inbox-file", "../subjects.csv"), "file"),
        (("-", "--retry-refused"), "--retry-refused: goes with --case"),
        (("--case", CASE, "--timeout", "5"), "--timeout: goes with --wait"),
        (("--case", CASE, "--wait", "--timeout", "-1"), "--timeout: must be a number of seconds"),
        (("--case", CASE, "--patience", "nan"), "--patience: must be a number of seconds"),
        (("--case", CASE, "--idempotency-key", ""), "--idempotency-key: must be 1 to 200"),
        (("--case", CASE, "--idempotency-key", "Zoë"), "--idempotency-key: must be 1 to 200"),
        (("--case", CASE, "--idempotency-key", "k" * 201), "--idempotency-key: must be 1 to 200"),
        (("nowhere.json",), "cannot be read"),
    ],
)
async def test_what_cannot_be_meant_is_said_and_nothing_is_sent(
    api: ScriptedApi, words: tuple[str, ...], says: str
) -> None:
    ran = await api.trigger(*words, quick=False)
    assert (ran.status, ran.out) == (2, "")
    assert says in "\n".join(ran.said)
    assert MARKER not in ran.err
    assert api.requests == []


@pytest.mark.parametrize(
    ("words", "deployment", "parameters"),
    [
        (("--case", CASE.lower()), "onboard-subject", {"case_id": CASE}),
        (("--case", CASE, "--retry-refused"), "onboard-subject", {"case_id": CASE, "retry_refused": True}),
        (("--batch", CASE, "--dry-run"), "onboard-batch", {"batch_id": CASE, "dry_run": True}),
        (("--inbox-file", "site-12.csv"), "onboard-batch", {"file": "site-12.csv"}),
    ],
)
async def test_a_case_a_batch_or_a_file_of_the_inbox_is_started_too(
    api: ScriptedApi, words: tuple[str, ...], deployment: str, parameters: dict[str, Any]
) -> None:
    ran = await api.trigger(*words)
    assert ran.status == 0, ran.err
    assert api.requests[0].call == f"GET /api/deployments/name/{deployment}/{deployment}"
    assert api.sent[0]["parameters"] == parameters


async def test_the_same_again_finds_the_run_under_way_and_starts_another_once_it_has_ended(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    request = installation.request()
    (first,) = (await api.carried_out(capsys, request, json=True)).json_lines
    again = await api.carried_out(capsys, request)
    assert again.out.startswith("Under way already: run run-1: ")
    for number, (kind, name) in enumerate(
        [("COMPLETED", "Onboarded"), ("CRASHED", "Crashed"), ("FAILED", "Failed")], 2
    ):
        api.end(api.sent[-1]["idempotency_key"], kind, name)
        (later,) = (await api.carried_out(capsys, request, json=True)).json_lines
        assert (later["created"], later["flow_run"]) == (True, f"run-{number}")
    keys = [one["idempotency_key"] for one in api.sent]
    digest = first["idempotency_key"].removesuffix("-1")
    assert keys == [f"{digest}-{number}" for number in (1, 1, 2, 3, 4)]


async def test_after_a_hundred_runs_the_same_request_is_still_started(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    request = installation.request()
    (first,) = (await api.carried_out(capsys, request, json=True)).json_lines
    digest = first["idempotency_key"].removesuffix("-1")
    ended = run(state=("COMPLETED", "Onboarded", None))
    api.known = {key: {**ended, "idempotency_key": key} for key in (f"{digest}-{number}" for number in range(1, 201))}
    (later,) = (await api.carried_out(capsys, request, json=True)).json_lines
    assert (later["created"], later["idempotency_key"]) == (True, f"{digest}-201")


async def test_a_key_holds_nothing_of_the_request_and_differs_with_what_is_wanted(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    request = installation.request()
    other = installation.request(subject__subject_id="F" * 32)
    merging = installation.request(registration__allow_merge=True)
    for file in (request, other, merging):
        assert (await api.carried_out(capsys, file)).status == 0
    assert (await api.carried_out(capsys, request, dry_run=True)).status == 0
    assert (await api.carried_out(capsys, None, case=CASE)).status == 0
    elsewhere = {"id": str(uuid4())}
    api.finds = answers(200, elsewhere)
    await api.carried_out(capsys, request)
    keys = [one["idempotency_key"] for one in api.sent]
    filters = [json.loads(one.body) for one in api.server.calls("flow_runs/filter")]
    asked = filters[-1]["flow_runs"]["idempotency_key"]["any_"][0]
    assert len({*keys, asked}) == 6, "another deployment's key is another, for the same request"
    assert DEPLOYMENT_ID not in str(keys)
    assert all(re.fullmatch(r"onboard-[0-9a-f]{32}-1", key) for key in keys)


async def test_without_an_api_it_says_so(installation: Installation) -> None:
    ran = await asyncio.to_thread(installation.run, "trigger", installation.request())
    assert ran.status == 2
    (line,) = ran.said
    assert line.startswith("PREFECT_API_URL: is not set, and no active profile names it.")
    assert "onboard up" in line


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1/api", "http://", "http://127.0.0.1:port/api"])
async def test_an_address_that_cannot_be_is_named(api: ScriptedApi, installation: Installation, url: str) -> None:
    ran = await api.trigger(installation.request(), variables={"PREFECT_API_URL": url})
    assert ran.status == 2
    assert ran.said[0].startswith("PREFECT_")


async def test_nobody_listening_is_said_at_once_and_nothing_was_started(
    api: ScriptedApi, installation: Installation
) -> None:
    address = f"http://127.0.0.1:{free_port()}/api"
    secret = address.replace("http://", "http://jane:hunter2@")
    ran = await api.trigger(
        installation.request(), "--patience", "600", variables={"PREFECT_API_URL": secret}, quick=False
    )
    assert ran.status == 1
    (line,) = ran.said
    assert line.startswith(f"the Prefect API at {address} cannot be reached")
    assert line.endswith("No run was started; give the same command again.")


async def test_the_api_of_the_active_profile_is_used_with_its_log_in(
    api: ScriptedApi, installation: Installation
) -> None:
    home = installation.folder / "profiled"
    home.mkdir()
    profile = (
        f'active = "site"\n[profiles.site]\nPREFECT_API_URL = "{api.url}"\nPREFECT_API_AUTH_STRING = "admin:hunter2"\n'
    )
    (home / "profiles.toml").write_text(profile)
    given: dict[str, str | None] = {"PREFECT_API_URL": None, "PREFECT_HOME": str(home)}
    ran = await api.trigger(installation.request(), variables=given)
    assert ran.status == 0, ran.err
    assert {request.headers.get("authorization") for request in api.requests} == {"Basic YWRtaW46aHVudGVyMg=="}


async def test_a_key_of_the_api_and_headers_of_ones_own_are_sent(api: ScriptedApi, installation: Installation) -> None:
    given: dict[str, str | None] = {"PREFECT_API_KEY": "pnu_x", "PREFECT_CLIENT_CUSTOM_HEADERS": '{"X-Gate": "open"}'}
    ran = await api.trigger(installation.request(), variables=given)
    assert ran.status == 0, ran.err
    assert {(one.headers.get("authorization"), one.headers.get("x-gate")) for one in api.requests} == {
        ("Bearer pnu_x", "open")
    }


@pytest.mark.parametrize("auth", ["admin:hunter2", None])
async def test_a_log_in_that_is_refused_is_named_not_shown_and_not_tried_again(
    api: ScriptedApi, installation: Installation, auth: str | None
) -> None:
    api.finds = answers(401, {"exception_message": "Unauthorized"})
    ran = await api.trigger(installation.request(), variables={"PREFECT_API_AUTH_STRING": auth})
    assert ran.status == 2
    (line,) = ran.said
    assert line.startswith(f"PREFECT_API_AUTH_STRING: {'is refused' if auth else 'is not set, but wanted'}")
    assert "hunter2" not in ran.err
    assert len(api.requests) == 1


async def test_a_server_that_wants_a_token_against_forged_requests_gets_one(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = api.server.script

    async def protected(exchange: Exchange) -> None:
        headers = exchange.request.headers
        if "csrf-token" in exchange.request.target:
            await exchange.answer(200, {"token": "t0ken", "client": exchange.request.target.partition("client=")[2]})
        elif exchange.request.method == "POST" and headers.get("prefect-csrf-token") != "t0ken":
            await exchange.answer(403, {"detail": "Missing CSRF token."})
        else:
            await usual(exchange)

    api.server.script = protected
    ran = await api.carried_out(capsys, installation.request())
    assert ran.status == 0, ran.err
    (client,) = {one.target.partition("client=")[2] for one in api.requests if "csrf-token" in one.target}
    assert {one.headers["prefect-csrf-client"] for one in api.server.calls("create_flow_run")} == {client}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (answers(404, {"detail": "Deployment not found"}), "there is no deployment onboard-subject/onboard-subject"),
        (answers(200, b"<html>Welcome</html>", content_type="text/html"), "but not as a Prefect API does"),
        (answers(404, b"<html>Nothing here</html>", content_type="text/html"), "but not as a Prefect API does"),
        (answers(200, ["not", "a", "deployment"]), "does not answer as a Prefect API does"),
        (answers(307, b"", headers={"location": "http://127.0.0.1:9/api"}), "sends elsewhere (HTTP 307)"),
        (answers(403, {"detail": "Forbidden"}), "PREFECT_API_AUTH_STRING: is not set, but wanted"),
    ],
)
async def test_what_is_no_prefect_api_or_not_set_up_is_told_apart(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str], answer: Any, says: str
) -> None:
    api.finds = answer
    ran = await api.carried_out(capsys, installation.request())
    assert ran.status == 2, ran.err
    assert says in ran.said[0]
    assert api.sent == []


async def test_a_busy_server_is_asked_again_with_the_same_key(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    busy = answers(503, {"detail": "Service Unavailable"})
    api.starts = in_turn(busy, busy, api._start)  # noqa: SLF001 - what it does by itself
    ran = await api.carried_out(capsys, installation.request(), json=True, patience_s=20)
    assert (ran.status, ran.err) == (0, "")
    assert ran.json_lines[0]["created"] is True
    assert len(api.sent) == 3
    assert len({one["idempotency_key"] for one in api.sent}) == 1


async def test_an_answer_that_was_lost_is_asked_for_again_and_the_run_is_found(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    api.starts = in_turn(api.lost, api._start)  # noqa: SLF001 - as above
    ran = await api.carried_out(capsys, installation.request(), json=True, patience_s=20)
    assert (ran.status, ran.err) == (0, "")
    assert ran.json_lines[0]["flow_run"] == "run-1"
    assert len(api.known) == 1


@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (answers(503, {"detail": "Service Unavailable"}), "answers HTTP 503"),
        (answers(500, b"<html>Sorry</html>", content_type="text/html"), "answers HTTP 500"),
        (hangs, "does not answer in time"),
        (cuts, "broke the connection off"),
    ],
)
async def test_where_nobody_knows_whether_a_run_was_started_the_key_is_said_with_which_it_is_safe_to_go_on(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str], trouble: Any, says: str
) -> None:
    api.starts = trouble
    request = installation.request()
    ran = await api.carried_out(capsys, request)
    assert (ran.status, ran.out) == (1, "")
    (line,) = ran.said
    assert says in line
    assert "Whether a run was started is not known." in line
    found = _KEY.search(line)
    assert found
    assert {one["idempotency_key"] for one in api.sent} == {found[1]}
    api.starts = None
    later = await api.carried_out(capsys, request, key=found[1])
    assert later.status == 0, later.err
    assert list(api.known) == [found[1]]


async def test_a_server_that_asks_for_patience_gets_it_and_has_started_nothing(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    api.starts = answers(429, {"detail": "slow down"}, headers={"retry-after": "1"})
    ran = await api.carried_out(capsys, installation.request(), patience_s=2.5)
    assert ran.status == 1
    assert "answers HTTP 429" in ran.said[0]
    assert "No run was started" in ran.said[0]
    assert len(api.sent) <= 3, "a second between two of them"


@pytest.mark.parametrize(
    ("status", "detail", "names"),
    [
        (
            409,
            f"Error creating flow run: Validation failed for field 'request.subject.mode'. Failure reason: '{MARKER}' is bad",
            "request.subject.mode: refused",
        ),
        (
            409,
            "Error creating flow run: Validation failed for field 'request'. Failure reason: 'subject' is a required property",
            "request.subject: refused",
        ),
        (422, [{"loc": ["body", "parameters"], "msg": MARKER}], "the parameters: refused"),
    ],
)
async def test_a_form_that_refuses_is_told_with_the_fields_name_and_without_its_value(
    api: ScriptedApi,
    installation: Installation,
    capsys: pytest.CaptureFixture[str],
    status: int,
    detail: Any,
    names: str,
) -> None:
    api.starts = answers(status, {"detail": detail})
    ran = await api.carried_out(capsys, installation.request())
    assert (ran.status, ran.out) == (2, "")
    assert ran.said[0].startswith(names)
    assert f"HTTP {status}" in ran.said[0]
    assert "no run was started" in ran.said[0]
    assert MARKER not in ran.err
    assert len(api.sent) == 1


@pytest.mark.parametrize("status", [400, 404, 413])
async def test_a_start_that_is_not_taken_is_no_start(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    api.starts = answers(status, {"detail": "no"})
    ran = await api.carried_out(capsys, installation.request())
    assert ran.status == 1
    assert "no run was started" in ran.said[0]


async def test_a_key_of_ones_own_stands_for_one_run_for_ever(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    request, key = installation.request(), "monday-17"
    assert (await api.carried_out(capsys, request, key=key)).status == 0
    api.end("monday-17", "FAILED", "NeedsAttention")
    again = await api.carried_out(capsys, request, key=key)
    assert again.out.startswith("This key stands for run run-1: ")
    assert again.status == 4, "the status says how that run ended"
    other = await api.carried_out(capsys, installation.request(subject__subject_id="F" * 32), key=key)
    assert (other.status, other.out) == (2, "")
    assert "it belongs to run run-1, which has other parameters; nothing was started" in other.said[0]
    dry = await api.carried_out(capsys, request, dry_run=True, key=key)
    assert dry.status == 2
    assert len(api.known) == 1


@pytest.mark.parametrize("key", ["monday-17", None])
async def test_a_run_that_is_called_new_but_is_another_callers_with_another_request_is_no_start(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str], key: str | None
) -> None:
    # Two who ask with one key at the very same moment are both told 201, for the one run.
    api.starts = answers(201, run(7, parameters={"request": example(subject__subject_id="F" * 32)}))
    ran = await api.carried_out(capsys, installation.request(), key=key)
    assert (ran.status, ran.out) == (2, "")
    assert "it belongs to run run-7, which has other parameters; nothing was started" in ran.said[0]


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("key", ["monday-17", None])
async def test_another_spelling_of_the_request_is_the_same_request(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str], status: int, key: str | None
) -> None:
    stands = example(dnd_exception__countries=["US", "DE"], registration__allow_merge=False)
    api.starts = answers(status, run(7, parameters={"request": stands}))
    ran = await api.carried_out(capsys, installation.request(dnd_exception__countries=["DE", "US"]), key=key)
    assert (ran.status, ran.err) == (0, "")
    assert "run run-7: " in ran.out


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize(
    ("defaults", "added"),
    [
        ({"case_id": None, "dry_run": True}, {"case_id": None, "dry_run": True}),
        ({"dry_run": {"__prefect_kind": "workspace_variable", "variable_name": "dry"}}, {"dry_run": True}),
        ({"dry_run": True}, {}),
    ],
    ids=["plain", "template", "set since"],
)
async def test_what_the_deployment_adds_makes_no_other_request_of_it(
    api: ScriptedApi,
    installation: Installation,
    capsys: pytest.CaptureFixture[str],
    status: int,
    defaults: dict[str, Any],
    added: dict[str, Any],
) -> None:
    api.finds = answers(200, {"id": DEPLOYMENT_ID, "parameters": defaults})
    api.starts = answers(status, run(7, parameters={"request": example(), **added}))
    ran = await api.carried_out(capsys, installation.request(), key="monday-17")
    assert (ran.status, ran.err) == (0, "")
    case = await api.carried_out(capsys, None, case=CASE, key="monday-17")
    assert case.status == 2, "what was asked is still compared"


async def test_a_run_whose_request_cannot_be_read_is_not_the_one_wanted(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    api.starts = answers(200, run(7, parameters={"request": {"subject": MARKER}}))
    ran = await api.carried_out(capsys, installation.request(), key="monday-17")
    assert ran.status == 2
    assert MARKER not in ran.err


def ended(kind: str, name: str, message: str | None, *, tagged: bool = True) -> Any:
    tags = ["onboarding", f"case:{CASE}", f"study:{STUDY_ID}"] if tagged else ["onboarding"]
    return answers(200, run(state=(kind, name, message), tags=tags))


@pytest.mark.parametrize("ending", list(Ending))
async def test_every_ending_is_told_by_its_name_with_the_exit_status_of_the_other_commands(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str], ending: Ending
) -> None:
    facts = ENDINGS[ending]
    message = f"case {CASE}: CPR_DUP_PPID: Another registration has this PPID."
    api.states = [ended(facts.state, ending.value, message)]
    ran = await api.carried_out(capsys, installation.request(), wait=True)
    assert (ran.status, ran.err) == (facts.exit_status, "")
    assert f"Case {CASE}: {ending} - {facts.meaning}\n  CPR_DUP_PPID: Another registration has this PPID.\n" in ran.out
    says = {
        3: "it goes on when it is due",
        4: f"when that is mended: onboard trigger --case {CASE} --retry-refused",
    }
    assert says.get(ran.status, "Case") in ran.out


@pytest.mark.parametrize(
    ("kind", "name", "message", "says"),
    [
        ("CRASHED", "Crashed", None, f"sooner with: onboard trigger --case {CASE}"),
        ("FAILED", "Failed", "ONBOARDING_LEDGER_URL: cannot be reached.", "ONBOARDING_LEDGER_URL: cannot be reached."),
        ("COMPLETED", "Completed", None, "it did not end as runs end here"),
        ("COMPLETED", "NeedsAttention", None, "it did not end as runs end here"),
    ],
)
async def test_what_is_no_ending_of_ours_is_never_taken_for_success(
    api: ScriptedApi,
    installation: Installation,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    name: str,
    message: str | None,
    says: str,
) -> None:
    api.states = [ended(kind, name, message)]
    ran = await api.carried_out(capsys, installation.request(), wait=True)
    assert ran.status == 1
    assert says in ran.out


async def test_programs_read_the_result_as_one_line(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    api.states = [ended("COMPLETED", "AwaitingDispensation", f"case {CASE}: NOT_DISPENSED: wait.")]
    ran = await api.carried_out(capsys, installation.request(), wait=True, json=True)
    assert ran.status == 3
    (line,) = ran.json_lines
    assert line.pop("idempotency_key") == api.sent[0]["idempotency_key"]
    assert line == {
        "flow_run": "run-1",
        "created": True,
        "state_type": "COMPLETED",
        "state": "AwaitingDispensation",
        "ending": "AwaitingDispensation",
        "what": f"case {CASE}: NOT_DISPENSED: wait.",
        "case": CASE,
        "page": f"{api.server.url}/runs/flow-run/run-1",
    }


async def test_a_server_that_is_restarted_meanwhile_does_not_end_the_wait(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    api.states = [
        answers(200, run(state=("PENDING", "Pending", None))),
        answers(200, run(state=("RUNNING", "Running", None))),
        cuts,
        answers(503, {"detail": "Service Unavailable"}),
        ended("COMPLETED", "Onboarded", None),
    ]
    ran = await api.carried_out(capsys, installation.request(), wait=True, patience_s=20)
    assert (ran.status, ran.err) == (0, "")
    assert f"Case {CASE}: Onboarded" in ran.out


async def test_a_wait_that_cannot_go_on_says_that_the_run_does(
    api: ScriptedApi, installation: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    api.states = [answers(503, {"detail": "Service Unavailable"})]
    ran = await api.carried_out(capsys, installation.request(), wait=True)
    assert ran.status == 1
    assert ran.said[0].endswith("Run run-1 goes on without this command.")
    api.states = [answers(404, {"detail": "Flow run not found"})]
    gone = await api.carried_out(capsys, installation.request(), wait=True)
    assert gone.status == 1
    assert "run run-1 is not there any more" in gone.said[0]


async def test_a_run_that_nobody_takes_up_is_said_and_the_wait_has_an_end(
    api: ScriptedApi, installation: Installation
) -> None:
    api.states = [answers(200, run(state=("SCHEDULED", "Late", None)))]
    ran = await api.trigger(installation.request(), "--wait", "--timeout", "2")
    assert ran.status == 3
    assert "nobody has taken the run up yet" in ran.said[0]
    assert "Late still; the run goes on" in ran.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_the_wait_not_the_run(
    api: ScriptedApi, installation: Installation, number: signal.Signals
) -> None:
    looked = asyncio.Event()

    async def running(exchange: Exchange) -> None:
        looked.set()
        await exchange.answer(200, run(state=("RUNNING", "Running", None)))

    api.states = [running]
    given = {"PREFECT_API_URL": api.url, "PREFECT_HOME": str(installation.folder / "home")}
    with installation.started("trigger", installation.request(), "--wait", variables=given) as process:
        async with asyncio.timeout(60):
            await looked.wait()
        process.send_signal(number)
        out, err = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 1
    assert err.endswith(f"no longer followed; the run goes on: {api.server.url}/runs/flow-run/run-1\n")
    assert "Traceback" not in err
    assert out.startswith("Started run run-1")
