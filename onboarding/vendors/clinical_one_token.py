"""Clinical One's token service, on a host of its own (OAuth 2.0 client credentials).

Source: vendor documentation, "get token" and "use token for API request"; RFC 6749 section 5 for the errors. A token
lives ten minutes, and nothing renews it: a new one is fetched shortly before.
"""

from base64 import b64encode
from collections.abc import Mapping
from typing import Final

from onboarding.clocks import boot_seconds
from onboarding.errors import CLINICAL_ONE, AnswerError, Unavailable
from onboarding.settings import ClinicalOneConnection
from onboarding.vendors.answers import Kind, unreadable
from onboarding.vendors.calls import Request, VendorCalls
from onboarding.vendors.tokens import Token, safe_token
from onboarding.vendors.wire import Answer, Deadline, Unreadable

_LIFE_S: Final = 600.0
_LONGEST_LIFE_S: Final = 86400.0
_MARGIN_S: Final = 60.0
_OAUTH_REFUSALS: Final = frozenset(
    {
        "access_denied",
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "unauthorized_client",
        "unsupported_grant_type",
    }
)


async def fetch_token(calls: VendorCalls, connection: ClinicalOneConnection, deadline: Deadline) -> Token:
    """Get a token.

    Raises:
        LoginRefused: the credentials were refused, now or before.
        Unavailable: the service could not be asked, or did not answer as documented.
    """
    await calls.refuse_remembered_login()
    pair = f"{connection.client_id}:{connection.client_secret.get_secret_value()}"
    headers = {"authorization": f"Basic {b64encode(pair.encode()).decode('ascii')}"}
    form = {"grant_type": "client_credentials", "scope": connection.scope}
    request = Request("token", Kind.LOGIN, "POST", connection.token_url, form=form)
    asked_at = boot_seconds()
    outcome, error = await calls.exchange(request, headers, deadline)
    if not isinstance(outcome, Answer):
        assert error is not None  # the lack of an answer is never a success
        raise error
    if error is not None:
        raise await _token_error(calls, outcome, error)
    body = _object(outcome)
    value = safe_token(body.get("access_token"))
    if value is None:
        raise unreadable(CLINICAL_ONE, Kind.LOGIN, outcome)
    return Token(value, asked_at + _usable_s(body.get("expires_in")))


def _usable_s(expires_in: object) -> float:
    """Seconds until the token is renewed: a minute before its end, or at half its life if it is a short one."""
    life_s = _LIFE_S
    if isinstance(expires_in, str) and expires_in.isdecimal() and len(expires_in) < 10:
        expires_in = int(expires_in)
    if isinstance(expires_in, int | float) and not isinstance(expires_in, bool) and expires_in > 0:
        life_s = min(float(expires_in), _LONGEST_LIFE_S)
    return max(life_s - _MARGIN_S, life_s / 2)


async def _token_error(calls: VendorCalls, answer: Answer, error: AnswerError) -> AnswerError:
    """A refusal of the credentials is remembered; a throttled or failing service, or a proxy's page, is not."""
    oauth = _object(answer).get("error")
    if answer.status in (400, 401, 403) and isinstance(oauth, str) and oauth in _OAUTH_REFUSALS:
        description = _object(answer).get("error_description")
        words = f"{oauth}: {description}" if isinstance(description, str) else oauth
        return await calls.login_refused(oauth.upper(), answer, words)
    if isinstance(error, Unavailable):
        return error
    return await calls.login_refused("LOGIN_REFUSED", answer, error.vendor_text)


def _object(answer: Answer) -> Mapping[str, object]:
    """The answer's JSON object, or an empty one if it is something else."""
    try:
        body = answer.content
    except Unreadable:
        return {}
    return body if isinstance(body, Mapping) else {}
