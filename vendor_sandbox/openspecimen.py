"""The OpenSpecimen stand-in: sessions and registrations.

Sources: the vendor's REST pages (Update Registration, Get registration, Merging two participants, login) and the
behaviour of the open-source server, which wins where a switch does not say otherwise.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any

from vendor_sandbox.answers import Answer, html_answer, json_answer, openspecimen_errors
from vendor_sandbox.effects import EffectLog
from vendor_sandbox.openspecimen_errors import OpenSpecimenRefusal, refusal
from vendor_sandbox.openspecimen_json import (
    Unreadable,
    read_count,
    read_object,
    read_registration,
    write_participant,
    write_registration,
)
from vendor_sandbox.openspecimen_world import OpenSpecimenWorld, Registration, User
from vendor_sandbox.registration_update import Outcome, RegistrationUpdate
from vendor_sandbox.requests import Route, VendorRequest
from vendor_sandbox.switches import Switches

PREFIX = ("openspecimen", "rest", "ng")
REGISTRATIONS = "collection-protocol-registrations"
TOKEN_HEADER = "X-OS-API-TOKEN"
TOKEN_COOKIE = "osAuthToken"
FAILURES_THAT_LOCK = 5
NO_CREDENTIALS = "You must supply valid credentials to access the OpenSpecimen REST API"


class Unauthenticated(Exception):
    """401 with the container's HTML page; `challenge` asks for Basic credentials."""

    def __init__(self, *, challenge: bool) -> None:
        super().__init__(NO_CREDENTIALS)
        self.challenge = challenge


class OpenSpecimen:
    """Handles one complete request at a time, without waiting: what it does is atomic."""

    def __init__(self, world: OpenSpecimenWorld, switches: Switches, effects: EffectLog) -> None:
        self.world = world
        self.switches = switches
        self._effects = effects

    def route(self, method: str, segments: Sequence[str]) -> Route:
        """Which call a request is for."""
        if tuple(segments[:3]) != PREFIX:
            return Route(None)
        rest = tuple(part for part in segments[3:] if part)
        if rest == ("sessions",):
            return Route({"POST": "login", "DELETE": "logout"}.get(method))
        if rest == (REGISTRATIONS, "list") and method == "POST":
            return Route("find_registrations")
        if len(rest) == 2 and rest[0] == REGISTRATIONS:
            calls = {"GET": "read_registration", "PUT": "update_registration"}
            return Route(calls.get(method), {"registration_id": rest[1]})
        return Route(None)

    def handle(self, request: VendorRequest) -> Answer:
        """Answer a request, applying its effect."""
        if "Origin" in request.headers:
            return html_answer(405, "Origin not allowed")
        try:
            return self._dispatch(request)
        except Unauthenticated as error:
            answer = html_answer(401, NO_CREDENTIALS)
            if error.challenge:
                answer.headers["WWW-Authenticate"] = 'Basic realm="OpenSpecimen"'
            return answer
        except Unreadable as error:
            # The server cuts its parser's message at the first parenthesis.
            return openspecimen_errors(400, [("INVALID_REQUEST", str(error).split("(", 1)[0])])
        except OpenSpecimenRefusal as error:
            return refusal(error.errors, self.switches.openspecimen_errors)

    def forget_token(self, request: VendorRequest) -> None:
        """End the session a request uses."""
        self.world.sessions.pop(request.headers.get(TOKEN_HEADER, ""), None)

    def _dispatch(self, request: VendorRequest) -> Answer:
        call = request.route.call
        if call == "login":
            return self._login(request)
        user = self._authenticated(request)
        if call == "logout":
            self.forget_token(request)
            return json_answer({"Status": "Success"})
        if call == "read_registration":
            return self._read(request, user)
        if call == "update_registration":
            return self._update(request, user)
        if call == "find_registrations":
            return self._find(request, user)
        return html_answer(404, request.path)

    def _login(self, request: VendorRequest) -> Answer:
        given = read_object(request.body)
        user = self._checked(given.get("loginName"), given.get("password"), given.get("domainName"))
        if user.must_reset:
            reset_token = base64.b64encode(user.login_name.encode()).decode()
            return json_answer({"resetPasswordToken": reset_token})
        token = self.world.open_session(user, time.monotonic())
        answer = json_answer(
            {
                "id": user.id,
                "firstName": user.first_name,
                "lastName": user.last_name,
                "loginName": user.login_name,
                "token": token,
                "admin": user.admin,
                "instituteAdmin": False,
            }
        )
        answer.headers["Set-Cookie"] = f"{TOKEN_COOKIE}={token}; Path=/openspecimen; HttpOnly"
        return answer

    def _checked(self, name: Any, password: Any, domain: Any) -> User:
        """The account, if the credentials are right; wrong ones are counted and lock it."""
        user = self.world.users.get((str(domain or "openspecimen"), str(name)))
        if user is None:
            raise OpenSpecimenRefusal(("AUTH_INVALID_CREDENTIALS", ""))
        if user.locked:
            raise OpenSpecimenRefusal(("AUTH_USER_LOCKED", ""))
        if user.password != password:
            user.failures += 1
            user.locked = user.failures >= FAILURES_THAT_LOCK
            raise OpenSpecimenRefusal(("AUTH_INVALID_CREDENTIALS", ""))
        if user.expired:
            raise OpenSpecimenRefusal(("AUTH_PASSWD_EXPIRED", ""))
        user.failures = 0
        return user

    def _authenticated(self, request: VendorRequest) -> User:
        """Who asks: by token header, else cookie, else Basic. A bad token is a 401 whatever else is sent."""
        token = request.headers.get(TOKEN_HEADER) or _cookie(request.headers.get("Cookie", ""))
        if token is not None:
            session = self.world.sessions.get(token)
            now = time.monotonic()
            if session is None or now - session.last_used > self.switches.session_idle_seconds or session.user.locked:
                self.world.sessions.pop(token, None)
                raise Unauthenticated(challenge=False)
            session.last_used = now
            return session.user
        header = request.headers.get("Authorization", "")
        if not header.startswith("Basic "):
            raise Unauthenticated(challenge=request.headers.get("X-OS-API-CLIENT") != "webui")
        try:
            # The server splits at every colon: a password with one in it can never work.
            name, password = base64.b64decode(header[6:], validate=True).decode().split(":")
            return self._checked(name, password, "openspecimen")
        except (binascii.Error, UnicodeDecodeError, ValueError, OpenSpecimenRefusal) as error:
            raise Unauthenticated(challenge=False) from error

    def _registration_id(self, request: VendorRequest) -> int:
        text = request.route.ids["registration_id"]
        if not (text.isascii() and text.isdigit()):
            raise Unreadable("Failed to convert value of type java.lang.String to required type java.lang.Long")
        return int(text)

    def _read(self, request: VendorRequest, user: User) -> Answer:
        registration_id = self._registration_id(request)
        registration = self.world.registrations.get(registration_id)
        if registration is None:
            raise OpenSpecimenRefusal(("CPR_M_NOT_FOUND", registration_id))
        if not user.may("read", registration.cp_id):
            raise OpenSpecimenRefusal(("RBAC_ACCESS_DENIED", ""))
        return json_answer(self._written(registration, phi=user.phi))

    def _update(self, request: VendorRequest, user: User) -> Answer:
        if "json" not in request.headers.get("Content-Type", ""):
            return html_answer(415, "Content type not supported")
        detail = read_registration(request.body, self.switches.zone)
        update = RegistrationUpdate(self.world, user, detail, self.switches.zone)
        before = self.world.registrations.get(self._registration_id(request))
        outcome = update.apply(self._registration_id(request))
        assert before is not None, "an unknown registration was refused"
        # The answer of a PUT is never masked (server behaviour). It is written before a deleted person is dropped.
        answer = json_answer(self._written(outcome.registration, phi=True))
        self._record(request, before, outcome)
        if outcome.deleted and not self.world.registrations_of(before.participant_id):
            self.world.remove_participant(before.participant_id)
        return answer

    def _record(self, request: VendorRequest, before: Registration, outcome: Outcome) -> None:
        key = {
            "registration_id": before.id,
            "participant_id": outcome.registration.participant_id,
            "cp_id": before.cp_id,
        }
        if outcome.deleted:
            self._effects.record(request, "registration_deleted", key, outcome.changed)
            return
        if outcome.merged is not None:
            merged = {**key, "removed_participant_id": outcome.merged}
            self._effects.record(request, "participants_merged", merged, ["participant.id"])
        self._effects.record(request, "registration_updated", key, outcome.changed)

    def _written(self, registration: Registration, *, phi: bool) -> dict[str, Any]:
        nulls = self.switches.openspecimen_nulls
        return write_registration(self.world, registration, self.switches.zone, phi=phi, nulls=nulls)

    def _find(self, request: VendorRequest, user: User) -> Answer:
        given = read_object(request.body)
        ppid, exact = str(given.get("ppid") or "").lower(), bool(given.get("exactMatch"))
        cp_id = given.get("cpId")
        found = [
            one
            for one in self.world.registrations.values()
            if (cp_id is None or str(one.cp_id) == str(cp_id))
            and user.may("read", one.cp_id)
            and (not ppid or (one.ppid.lower() == ppid if exact else ppid in one.ppid.lower()))
        ]
        start, limit = read_count(given.get("startAt"), 0), read_count(given.get("maxResults"), 100)
        return json_answer([self._summary(one, phi=user.phi) for one in found[start : start + limit]])

    def _summary(self, registration: Registration, *, phi: bool) -> dict[str, Any]:
        written = self._written(registration, phi=phi)
        person = self.world.participants[registration.participant_id]
        return {
            "cpId": registration.cp_id,
            "cpShortTitle": written["cpShortTitle"],
            "cprId": registration.id,
            "ppid": registration.ppid,
            "registrationDate": written["registrationDate"],
            "participant": write_participant(person, registration.participant_id, self.switches.zone, phi=phi),
        }


def _cookie(header: str) -> str | None:
    try:
        morsel = SimpleCookie(header).get(TOKEN_COOKIE)
    except CookieError:
        return None
    return None if morsel is None else morsel.value
