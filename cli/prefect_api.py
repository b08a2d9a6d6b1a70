"""The Prefect API over plain HTTP, for callers who must know what became of a request.

Not Prefect's own client (3.8): it repeats a request for minutes by itself, tells a new run (201) from one that stood (200)
as little as whether a request that failed may have arrived. Its settings are read by Prefect itself, so that address,
log-in, headers and certificates are found wherever Prefect finds them.
"""

import random
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import uuid4

import certifi
import httpx

from onboarding.errors import BadSettings, OnboardingError

_ANSWERS_S: Final = 30.0  # on SQLite, Prefect's server waits for its own locks for longer than one would think
_FIRST_PAUSE_S: Final = 0.25
_LONGEST_PAUSE_S: Final = 5.0
_CSRF_OFF: Final = (404, 422)  # what a server answers that knows no tokens, or wants none
_NEVER_LEFT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True)
class Answer:
    """An answer of the API that is neither a log-in's refusal nor a passing trouble: its status, and its JSON."""

    status: int
    content: Any


class NoAnswer(OnboardingError):
    """The API gave no usable answer for as long as we tried.

    Attributes:
        why: what the last try came to; reads on from the API's address.
        may_have_arrived: whether one of the tries can have been carried out.
    """

    def __init__(self, address: str, why: str, *, may_have_arrived: bool) -> None:
        self.why = f"the Prefect API at {address} {why}"
        self.may_have_arrived = may_have_arrived
        super().__init__(self.why)


@dataclass
class PrefectApi:
    """A Prefect API, and how long each request to it is tried again while it is busy or does not answer.

    Attributes:
        address: where it is, without a log-in.
        page: where its page is.
        signs_in_with: the setting that logs in, or None.
    """

    address: str
    page: str
    signs_in_with: str | None
    patience_s: float
    http: httpx.Client = field(repr=False)
    _has_answered: bool = False

    def get(self, path: str) -> Answer:
        """Read something. Raises ``NoAnswer``, ``BadSettings``."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """Send something that may be sent more than once. Raises ``NoAnswer``, ``BadSettings``."""
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> Answer:
        ends = time.monotonic() + self.patience_s
        pause_s = _FIRST_PAUSE_S
        may_have_arrived = False
        while True:
            asked_to_wait_s = 0.0
            try:
                response = self.http.request(method, path, json=body, timeout=_left(ends))
            except httpx.TransportError as error:
                may_have_arrived |= not isinstance(error, _NEVER_LEFT)
                why = _of_transport(error)
                if isinstance(error, _NEVER_LEFT) and not self._has_answered:
                    raise NoAnswer(self.address, why, may_have_arrived=False) from None  # most likely a wrong address
            except (httpx.InvalidURL, httpx.DecodingError, ValueError):
                raise self.is_no_api("cannot be asked") from None
            else:
                self._has_answered = True
                if self._takes_a_token(response):
                    continue
                if not _passes(response.status_code):
                    return self._read(response)
                may_have_arrived |= response.status_code != httpx.codes.TOO_MANY_REQUESTS
                why = f"answers HTTP {response.status_code}: it is busy, starting or in trouble"
                asked_to_wait_s = _retry_after_s(response)
            wait_s = max(pause_s * random.uniform(0.5, 1.0), asked_to_wait_s)  # noqa: S311 - spreads callers out
            if time.monotonic() + wait_s >= ends:
                raise NoAnswer(self.address, why, may_have_arrived=may_have_arrived) from None
            time.sleep(wait_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _takes_a_token(self, response: httpx.Response) -> bool:
        """Get the token that a server with CSRF protection wants, unless that was done; whether to ask once more."""
        if response.status_code != httpx.codes.FORBIDDEN or "CSRF" not in response.text:
            return False
        if "Prefect-Csrf-Token" in self.http.headers:
            return False
        client = str(uuid4())
        answer = self.get(f"csrf-token?client={client}")
        if answer.status in _CSRF_OFF or not isinstance(answer.content, dict) or "token" not in answer.content:
            return False
        self.http.headers.update({"Prefect-Csrf-Token": str(answer.content["token"]), "Prefect-Csrf-Client": client})
        return True

    def _read(self, response: httpx.Response) -> Answer:
        if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise BadSettings([self._log_in_refused(response.status_code)])
        if response.is_redirect:
            raise self.is_no_api(f"sends elsewhere (HTTP {response.status_code}); it must be the API's own address")
        try:
            return Answer(response.status_code, response.json())
        except ValueError:
            raise self.is_no_api(f"answers HTTP {response.status_code}, but not as a Prefect API does") from None

    def _log_in_refused(self, status: int) -> str:
        setting = self.signs_in_with
        what = f"{setting}: is refused" if setting else "PREFECT_API_AUTH_STRING: is not set, but wanted"
        what += f" by the Prefect API at {self.address} (HTTP {status}); no run was started by this request. "
        return f"{what}Set it to what the server was started with (PREFECT_SERVER_API_AUTH_STRING), or ask who runs it."

    def is_no_api(self, what: str = "does not answer as a Prefect API does") -> BadSettings:
        """The error that says so; ``what`` reads on from the address."""
        return BadSettings([f"PREFECT_API_URL: {self.address} {what}; for example http://127.0.0.1:4200/api."])


@contextmanager
def configured_api(patience_s: float) -> Iterator[PrefectApi]:
    """The Prefect API that Prefect's own settings name: environment, ``.env``, ``prefect.toml``, the active profile.

    Raises:
        BadSettings: they name none, or cannot be read.
    """
    try:
        from prefect.settings import get_current_settings

        settings = get_current_settings()
    except Exception as error:  # noqa: BLE001 - of many kinds; their texts can hold secrets
        what = f"PREFECT_...: Prefect's settings cannot be read ({type(error).__name__}); see 'prefect config view'."
        raise BadSettings([what]) from None
    key, auth = settings.api.key, settings.api.auth_string
    headers = dict(settings.client.custom_headers)
    signs_in_with = None
    if auth is not None and auth.get_secret_value():
        headers["Authorization"] = _basic(auth.get_secret_value())
        signs_in_with = "PREFECT_API_AUTH_STRING"
    elif key is not None and key.get_secret_value():
        headers["Authorization"] = f"Bearer {key.get_secret_value()}"
        signs_in_with = "PREFECT_API_KEY"
    verify = _certificates(settings.api.ssl_cert_file, insecure=settings.api.tls_insecure_skip_verify)
    address = _address(settings.api.url)
    page = settings.ui_url or address.removesuffix("/api")
    base = f"{str(settings.api.url).rstrip('/')}/"
    try:
        http = httpx.Client(base_url=base, headers=headers, verify=verify)
    except (ValueError, TypeError):  # a header that cannot be one
        raise BadSettings(["PREFECT_CLIENT_CUSTOM_HEADERS: cannot be sent; see 'prefect config view'."]) from None
    with http:
        yield PrefectApi(address, page.rstrip("/"), signs_in_with, patience_s, http)


def _address(url: str | None) -> str:
    if not url:
        what = "PREFECT_API_URL: is not set, and no active profile names it. It is the address of a Prefect API, for example "
        raise BadSettings(
            [f"{what}http://127.0.0.1:4200/api; 'onboard up' runs one, and so does 'prefect server start'."]
        )
    try:
        parsed = httpx.URL(url.rstrip("/"))
    except (httpx.InvalidURL, ValueError):
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise BadSettings(["PREFECT_API_URL: is no address of a Prefect API, such as http://127.0.0.1:4200/api."])
    return str(parsed.copy_with(username=None, password=None, query=None, fragment=None))


def _basic(auth: str) -> str:
    return f"Basic {b64encode(auth.encode()).decode('ascii')}"


def _certificates(file: str | None, *, insecure: bool) -> ssl.SSLContext | bool:
    if insecure:
        return False
    try:
        return ssl.create_default_context(cafile=file or certifi.where())
    except OSError as error:
        what = f"PREFECT_API_SSL_CERT_FILE: {file} cannot be used ({error.strerror or type(error).__name__})."
        raise BadSettings([what]) from None


def _left(ends: float) -> float:
    return max(0.05, min(_ANSWERS_S, ends - time.monotonic()))


def _passes(status: int) -> bool:
    """Whether the same request may be answered otherwise soon."""
    return status in (408, 425, 429) or status >= 500


def _retry_after_s(response: httpx.Response) -> float:
    try:
        return max(0.0, float(response.headers.get("Retry-After", 0)))
    except ValueError:
        return 0.0


def _of_transport(error: httpx.TransportError) -> str:
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ssl.SSLCertVerificationError):
            return "shows a certificate that is not trusted (PREFECT_API_SSL_CERT_FILE names one's own authority)"
        link = link.__cause__ or link.__context__
    if isinstance(error, _NEVER_LEFT):
        return "cannot be reached: nothing listens there, or the way is closed"
    if isinstance(error, httpx.TimeoutException):
        return "does not answer in time"
    return "broke the connection off"
