"""Clinical One: dispensation, mHealth devices and DND exceptions (the service ``ec-ors-svc``).

Source: vendor documentation of the named calls. Ids are sent as 32 upper-case hexadecimal digits. A success is the bare
object or array, or lies under ``result``, as in sibling services.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import unquote, urlencode

from onboarding.errors import CLINICAL_ONE, Refused
from onboarding.explanations import explain
from onboarding.identifiers import normalise_id
from onboarding.settings import ClinicalOneConnection
from onboarding.vendors.answers import Kind, unreadable, unwrapped
from onboarding.vendors.calls import Check, Request, VendorCalls, path_segment
from onboarding.vendors.clinical_one_token import fetch_token
from onboarding.vendors.dispensation import (
    Dispensation,
    HistoryRow,
    SubjectNotStated,
    as_of_text,
    read_dispensation,
    read_history,
)
from onboarding.vendors.exceptions import DndException, ExceptionList, read_created_id, read_exceptions
from onboarding.vendors.gate import VendorGate
from onboarding.vendors.limits import Limits, Turn, Urgency
from onboarding.vendors.retry_after import DEFAULT_CEILING_S
from onboarding.vendors.shared_reads import SharedReads
from onboarding.vendors.tokens import LOGIN_TIMEOUT_S, Token, TokenKeeper
from onboarding.vendors.transport import VendorHttp
from onboarding.vendors.wire import LIST_LIMIT, Deadline, Unreadable

_Content = TypeVar("_Content")


@dataclass(frozen=True, slots=True, repr=False)
class DeviceCredentials:
    """What a registered device starts with; ``access_id`` and ``otp`` are credentials, so nothing here is ever shown.

    Attributes:
        access_id: client access code (``accessId``), or None if the answer has none.
        device_id: device instance id (``id``), or None.
        otp: one-time code, good for 24 hours or one use, or None.
    """

    access_id: str | None
    device_id: str | None
    otp: str | None

    def __repr__(self) -> str:
        """Show nothing."""
        return "DeviceCredentials(...)"


class ClinicalOneClient:
    """Speaks to one tenant as one OAuth client, for as many concurrent callers as like, in one event loop.

    Every call has one absolute deadline, which covers a log-in and the replay after a 401 too. Every call can raise

    - ``Refused``: not applied (or not readable) for a reason of data, rights or set-up; ``code`` names it;
    - ``NotYet``: the device is not dispensed to the subject;
    - ``Unavailable``: not applied, may work later; ``LoginRefused``: nothing was sent.

    Effects can also raise ``InDoubt`` (may have been applied), and whatever their ``check`` raised, unchanged.

    Args:
        connection: where tenant and token service are, and the OAuth client.
        http: what sends; the caller closes it.
        gate: pauses and refused log-ins that all processes share.
        login_timeout_s: deadline of fetching a token, which serves all who wait for it.
        retry_after_ceiling_s: longest pause that the vendor can ask for.
        limits: how much is asked of it at a time, by this client.
    """

    def __init__(
        self,
        connection: ClinicalOneConnection,
        http: VendorHttp,
        gate: VendorGate,
        *,
        login_timeout_s: float = LOGIN_TIMEOUT_S,
        retry_after_ceiling_s: float = DEFAULT_CEILING_S,
        limits: Limits | None = None,
    ) -> None:
        self._connection = connection
        self._base = f"{connection.url.rstrip('/')}/ec-ors-svc/rest"
        # The setting may be written plainly or percent-encoded: some editions call it "DND Exception".
        self._dnd_segment = path_segment(unquote(connection.dnd_path))
        self._login_timeout_s = login_timeout_s
        secret = connection.client_secret.get_secret_value()
        self._calls = VendorCalls(
            CLINICAL_ONE,
            http,
            gate,
            credentials=(connection.url, connection.token_url, connection.client_id, connection.scope, secret),
            retry_after_ceiling_s=retry_after_ceiling_s,
            limits=limits,
        )
        self._tokens = TokenKeeper(CLINICAL_ONE, self._log_in)
        self._exceptions: SharedReads[tuple[str, str], ExceptionList] = SharedReads(CLINICAL_ONE, self._read_exceptions)

    @property
    def credentials_digest(self) -> str:
        """Keyed digest of address, name and secret: under it a refused log-in is remembered."""
        return self._calls.credentials_digest

    def turn(self, seconds: float) -> AbstractAsyncContextManager[Turn]:
        """Wait for the place of one effect, before its intent is committed; give what comes to the call as its deadline.

        Raises:
            Unavailable: a long pause is under way, or the system looks dead; nothing was sent.
        """
        return self._calls.turn(seconds)

    def closed_for_s(self) -> float:
        """Seconds for which nothing will be sent there: a pause it asked for, or it looks dead; 0 if it may be used."""
        return self._calls.pacing.closed_for_s()

    async def log_in(self, *, deadline: Deadline) -> None:
        """Make sure that there is a token, and change nothing else."""
        await self._tokens.get(deadline)

    async def dispensation(
        self, study_id: str, mode: str, inventory_id: str, *, deadline: Deadline
    ) -> Dispensation | None:
        """To whom a kit is dispensed; None if to nobody (yet).

        Raises:
            Refused: with ``SUBJECT_NOT_STATED``, if the kit is dispensed but the answer does not say to whom.
        """
        url = self._url("v1.0", study_id, mode, "inventory", "kits", normalise_id(inventory_id), "dispensation")
        request = Request("dispensation", Kind.READ, "GET", url)
        return await self._call(request, read_dispensation, deadline)

    async def dispensation_history(
        self, study_id: str, mode: str, subject_id: str, visit_id: str, *, as_of: datetime, deadline: Deadline
    ) -> list[HistoryRow]:
        """The kits of a subject's visit, with connection type and status.

        Args:
            study_id: the study.
            mode: its mode.
            subject_id: the subject.
            visit_id: ``visit_id`` of the dispensation.
            as_of: the moment to look at, aware; now, as a rule.
            deadline: of the call.
        """
        query = {"visitId": normalise_id(visit_id), "asofdate": as_of_text(as_of)}
        url = self._url("v10.0", study_id, mode, "subjects", normalise_id(subject_id), "dispensation-history")
        request = Request(
            "dispensation_history",
            Kind.READ,
            "GET",
            f"{url}?{urlencode(query)}",
            max_bytes=LIST_LIMIT,
            urgency=Urgency.SECOND_LOOK,  # what was read first must not grow old in the queue
        )
        return await self._call(request, read_history, deadline)

    async def register_device(
        self,
        study_id: str,
        mode: str,
        subject_id: str,
        body: Mapping[str, Any],
        *,
        deadline: Deadline,
        check: Check | None = None,
    ) -> DeviceCredentials:
        """Register an mHealth device. Not repeatable: a cloud-to-cloud device is refused the second time.

        Args:
            study_id: the study.
            mode: its mode.
            subject_id: the subject.
            body: ``inventoryId``, ``mSubjectId`` and one of ``subjectNumber`` and ``vendorCode``.
            deadline: of the call.
            check: called right before the first byte of each sending.
        """
        url = self._url("v1.0", study_id, mode, "subjects", normalise_id(subject_id), "register-device")
        request = Request("register_device", Kind.EFFECT, "POST", url, dict(body))
        return await self._call(request, _credentials, deadline, check)

    async def reissue_access_code(
        self,
        study_id: str,
        mode: str,
        subject_id: str,
        inventory_id: str,
        m_subject_id: str,
        *,
        deadline: Deadline,
        check: Check | None = None,
    ) -> DeviceCredentials:
        """Issue new credentials for a registered device; the old ones end, so this is an effect.

        Raises:
            Refused: with ``DEVICE_NOT_REGISTERED``, if the device is not registered for the subject.
        """
        device = ("subjects", normalise_id(subject_id), "devices", normalise_id(inventory_id), "access-code")
        url = f"{self._url('v1.0', study_id, mode, *device)}?{urlencode({'mSubjectId': m_subject_id})}"
        return await self._call(Request("access_code", Kind.EFFECT, "PUT", url), _credentials, deadline, check)

    async def list_exceptions(self, study_id: str, mode: str, *, deadline: Deadline) -> list[DndException]:
        """All DND exceptions of the study. An answer that cannot be read in full is ``Unavailable``, never shorter."""
        return await self._list_exceptions(study_id, mode, deadline)

    async def exceptions_since(self, study_id: str, mode: str, since: float, *, timeout_s: float) -> ExceptionList:
        """As ``list_exceptions``, shared by all who ask at the same time, and kept for those who ask later.

        Args:
            study_id: the study.
            mode: its mode.
            since: seconds since boot; a list that was asked for earlier, or before an exception that was created here,
                will not do.
            timeout_s: deadline of the request, if one is made.
        """
        return await self._exceptions.get((normalise_id(study_id), mode), since=since, timeout_s=timeout_s)

    def exceptions_known(self, study_id: str, mode: str, since: float) -> ExceptionList | None:
        """What ``exceptions_since`` would give without a request, if anything."""
        return self._exceptions.known((normalise_id(study_id), mode), since=since)

    async def create_exception(
        self, study_id: str, mode: str, body: Mapping[str, Any], *, deadline: Deadline, check: Check | None = None
    ) -> str | None:
        """Create a DND exception. Not repeatable: the server makes another one each time.

        Returns:
            Its id, 32 upper-case hexadecimal digits; None if the success does not say, as in one documented edition.
        """
        url = self._url("v1.0", study_id, mode, self._dnd_segment)
        request = Request("create_exception", Kind.EFFECT, "POST", url, dict(body))
        try:
            return await self._call(request, read_created_id, deadline, check)
        finally:  # whatever the answer, what was listed before it says nothing about this one
            self._exceptions.forget((normalise_id(study_id), mode))

    async def aclose(self) -> None:
        """Stop a log-in and shared reads that are under way."""
        await self._exceptions.aclose()
        await self._tokens.aclose()

    def _url(self, version: str, study_id: str, mode: str, *segments: str) -> str:
        return "/".join([self._base, version, "studies", normalise_id(study_id), path_segment(mode), *segments])

    async def _list_exceptions(
        self, study_id: str, mode: str, deadline: Deadline, sent: Check | None = None
    ) -> list[DndException]:
        url = self._url("v1.0", study_id, mode, self._dnd_segment)
        request = Request("list_exceptions", Kind.READ, "GET", url, max_bytes=LIST_LIMIT)
        return await self._call(request, read_exceptions, deadline, sent)

    async def _read_exceptions(self, key: tuple[str, str], timeout_s: float, sent: Check) -> ExceptionList:
        return ExceptionList(await self._list_exceptions(*key, Deadline(timeout_s), sent))

    async def _log_in(self) -> Token:
        return await fetch_token(self._calls, self._connection, Deadline(self._login_timeout_s))

    async def _call(
        self, request: Request, read: Callable[[object], _Content], deadline: Deadline, check: Check | None = None
    ) -> _Content:
        answer = await self._calls.authorised(request, self._tokens, _headers, deadline=deadline, check=check)
        try:
            return read(unwrapped(answer.content))
        except SubjectNotStated:
            code = "SUBJECT_NOT_STATED"
        except Unreadable:
            raise unreadable(CLINICAL_ONE, request.kind, answer) from None
        raise Refused(CLINICAL_ONE, code, explain(code), http_status=answer.status)


def _headers(token: Token) -> dict[str, str]:
    return {"authorization": f"Bearer {token.value}"}


def _credentials(content: object) -> DeviceCredentials:
    """Whether a cloud-to-cloud device gets access codes at all is not documented, so one of the three will do."""
    if not isinstance(content, Mapping):
        raise Unreadable("credentials are an object")
    access_id, device_id, otp = (
        value if isinstance(value := content.get(key), str) and value else None for key in ("accessId", "id", "otp")
    )
    if access_id is None and device_id is None and otp is None:
        raise Unreadable("nothing says that a device was registered")
    return DeviceCredentials(access_id=access_id, device_id=device_id, otp=otp)
