"""OpenSpecimen: log-in, lock, tokens and what a request without one gets."""

import base64
import uuid

import aiohttp
import pytest

from tests.sandbox.callers import Caller
from vendor_sandbox import seed


async def test_a_log_in_answers_a_token_that_is_a_uuid_in_base64(stranger: Caller) -> None:
    reply = await stranger.log_in()
    assert reply.status == 200
    uuid.UUID(base64.b64decode(reply.json["token"]).decode())
    assert (await stranger.registration()).status == 200


async def test_the_domain_defaults_to_openspecimen(stranger: Caller) -> None:
    assert (await stranger.log_in(domain=None)).status == 200
    assert (await stranger.log_in(domain="ldap")).codes == ["AUTH_INVALID_CREDENTIALS"]


async def test_five_failed_log_ins_lock_the_account(stranger: Caller) -> None:
    for _ in range(5):
        reply = await stranger.log_in(password="wrong")
        assert (reply.status, reply.codes) == (400, ["AUTH_INVALID_CREDENTIALS"])
    locked = await stranger.log_in()
    assert (locked.status, locked.codes) == (400, ["AUTH_USER_LOCKED"])
    stranger.control.unlock()
    assert (await stranger.log_in()).status == 200


async def test_a_good_log_in_forgets_earlier_failures(stranger: Caller) -> None:
    for password in ["wrong"] * 4 + [seed.PASSWORD] + ["wrong"] * 4:
        await stranger.log_in(password=password)
    assert (await stranger.log_in()).status == 200


async def test_a_log_in_that_must_reset_its_password_is_a_200_without_a_token(stranger: Caller) -> None:
    reply = await stranger.log_in("newcomer", "newcomer-password")
    assert reply.status == 200
    assert list(reply.json) == ["resetPasswordToken"]


async def test_an_expired_password_is_refused(stranger: Caller) -> None:
    assert (await stranger.log_in("expired", "expired-password")).codes == ["AUTH_PASSWD_EXPIRED"]


async def test_without_credentials_the_answer_is_a_401_in_html_that_asks_for_basic(stranger: Caller) -> None:
    reply = await stranger.registration()
    assert reply.status == 401
    assert reply.headers["Content-Type"].startswith("text/html")
    assert reply.headers["WWW-Authenticate"] == 'Basic realm="OpenSpecimen"'


async def test_a_bad_token_is_a_401_even_beside_good_basic_credentials(stranger: Caller) -> None:
    basic = {"Authorization": aiohttp.encode_basic_auth(seed.USERNAME, seed.PASSWORD)}
    path = "collection-protocol-registrations/1"
    assert (await stranger.openspecimen("GET", path, headers=basic)).status == 200
    reply = await stranger.openspecimen("GET", path, headers={**basic, "X-OS-API-TOKEN": "stale"})
    assert reply.status == 401
    assert b"<html>" in reply.body


async def test_the_token_is_also_taken_from_the_cookie_that_the_log_in_sets(stranger: Caller) -> None:
    cookie = (await stranger.log_in()).headers["Set-Cookie"].split(";")[0]
    stranger.headers["openspecimen"] = {"Cookie": cookie}
    assert (await stranger.registration()).status == 200


async def test_logging_out_ends_the_token(caller: Caller) -> None:
    assert (await caller.openspecimen("DELETE", "sessions")).json == {"Status": "Success"}
    assert (await caller.registration()).status == 401


async def test_a_token_dies_of_idleness_and_use_keeps_it_alive(caller: Caller) -> None:
    assert (await caller.registration()).status == 200
    caller.control.switches(session_idle_seconds=0)
    assert (await caller.registration()).status == 401


async def test_an_origin_header_is_refused(caller: Caller) -> None:
    path = "collection-protocol-registrations/1"
    reply = await caller.openspecimen("GET", path, headers={"Origin": "http://elsewhere.example"})
    assert reply.status == 405


@pytest.mark.parametrize("body", [b"{", b"[]", b"NaN", b'"text"'])
async def test_malformed_json_is_an_invalid_request(stranger: Caller, body: bytes) -> None:
    url = stranger.addresses["openspecimen_url"] + "/rest/ng/sessions"
    reply = await stranger.send("POST", url, data=body, headers={"Content-Type": "application/json"})
    assert (reply.status, reply.codes) == (400, ["INVALID_REQUEST"])
