"""The token endpoint of Clinical One: client id and secret as HTTP Basic, a form, a token for ten minutes.

Source: the vendor's page on token authentication; error bodies after RFC 6749, section 5.2 (inferred).
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Sequence
from urllib.parse import parse_qs, unquote_plus

from vendor_sandbox.answers import Answer, html_answer, json_answer, oauth_error
from vendor_sandbox.clinical_one_world import Client, ClinicalOneWorld
from vendor_sandbox.requests import Route, VendorRequest
from vendor_sandbox.switches import Switches

TOKEN_PATH = ("oauth2", "v1", "token")


class TokenRefused(Exception):
    """The endpoint refuses with an OAuth error code."""

    def __init__(self, status: int, code: str, description: str) -> None:
        super().__init__(code)
        self.status, self.code, self.description = status, code, description


class TokenEndpoint:
    """Issues bearer tokens for the client credentials and the password grant; there are no refresh tokens."""

    def __init__(self, world: ClinicalOneWorld, switches: Switches) -> None:
        self.world = world
        self.switches = switches

    def route(self, method: str, segments: Sequence[str]) -> Route:
        """Which call a request is for."""
        return Route("token" if method == "POST" and tuple(segments) == TOKEN_PATH else None)

    def handle(self, request: VendorRequest) -> Answer:
        """Answer a request."""
        if request.route.call != "token":
            return html_answer(404, request.path)
        try:
            return self._issue(request)
        except TokenRefused as error:
            return oauth_error(error.status, error.code, error.description)

    def forget_token(self, request: VendorRequest) -> None:
        """Requests to this endpoint carry no token."""

    def _issue(self, request: VendorRequest) -> Answer:
        client = self._client(request.headers.get("Authorization", ""))
        if not request.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded"):
            raise TokenRefused(400, "invalid_request", "The request must be form-encoded.")
        form = {key: values[0] for key, values in parse_qs(request.body.decode(errors="replace")).items()}
        grant = form.get("grant_type")
        if grant is None:
            raise TokenRefused(400, "invalid_request", "The parameter grant_type is missing.")
        if grant not in {"client_credentials", "password"}:
            raise TokenRefused(400, "unsupported_grant_type", "The grant type is not supported.")
        if grant not in client.grants:
            raise TokenRefused(400, "unauthorized_client", "The client may not use this grant type.")
        if grant == "password" and self.world.users.get(form.get("username", "")) != form.get("password", ""):
            raise TokenRefused(400, "invalid_grant", "The user name or password is incorrect.")
        scopes = frozenset(form.get("scope", "").split())
        if not scopes or not scopes <= set(client.scopes):
            raise TokenRefused(400, "invalid_scope", "At least one scope of the client is needed, and no other.")
        seconds = self.switches.token_seconds
        token = self.world.issue_token(client, scopes, time.monotonic(), seconds)
        answer = json_answer({"access_token": token, "token_type": "Bearer", "expires_in": int(seconds)})
        answer.headers["Cache-Control"] = "no-store"
        return answer

    def _client(self, header: str) -> Client:
        try:
            kind, _, encoded = header.partition(" ")
            name, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            kind = name = secret = ""
        client = self.world.clients.get(unquote_plus(name)) or self.world.clients.get(name)
        if kind.lower() != "basic" or client is None or client.secret not in {secret, unquote_plus(secret)}:
            raise TokenRefused(401, "invalid_client", "Client authentication failed.")
        return client
