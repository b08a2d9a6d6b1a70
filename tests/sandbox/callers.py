"""A plain HTTP caller for the sandbox's tests: not the project's client, so that neither hides the other's mistakes."""

import json as json_text
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from vendor_sandbox import RunningSandbox, SandboxControl, seed

EXAMPLE_UPDATE = {
    "participant": {"id": 2},
    "id": 1,
    "cpId": 3,
    "ppid": "ASCI123",
    "activityStatus": "Active",
    "registrationDate": "2014-04-21",
    "externalSubjectId": "TEST_001",
}
EXAMPLE_EXCEPTION = {
    "allCountries": False,
    "countries": ["US"],
    "siteIds": [seed.SITE_ID],
    "kitTypeSrcId": [seed.KIT_TYPE_ID],
    "visitDND": [{"visitSrcId": seed.VISIT_ID, "dnd": 2}],
}


@dataclass(frozen=True)
class Reply:
    """An answer that was read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which must be JSON."""
        return json_text.loads(self.body)

    @property
    def codes(self) -> list[str]:
        """OpenSpecimen's error codes."""
        return [error["code"] for error in self.json]

    @property
    def phrase(self) -> str:
        """Clinical One's error phrase."""
        phrase: str = self.json["errorData"]["errorMessage"]
        return phrase


class Caller:
    """Calls both systems; each request on a connection of its own, so that nothing is sent again in silence."""

    def __init__(self, sandbox: RunningSandbox, session: aiohttp.ClientSession) -> None:
        self.addresses = sandbox.addresses
        self.control: SandboxControl = sandbox.control
        self._session = session
        self.headers: dict[str, dict[str, str]] = {"openspecimen": {}, "clinical_one": {}}

    async def send(self, method: str, url: str, **options: Any) -> Reply:
        """One request."""
        async with self._session.request(method, url, allow_redirects=False, **options) as answer:
            return Reply(answer.status, answer.headers.copy(), await answer.read())

    async def log_in(
        self, name: str = seed.USERNAME, password: str = seed.PASSWORD, domain: str | None = "openspecimen"
    ) -> Reply:
        """Log in to OpenSpecimen; a token is kept for the requests that follow."""
        body = {"loginName": name, "password": password, "domainName": domain}
        reply = await self.send("POST", self.addresses["openspecimen_url"] + "/rest/ng/sessions", json=body)
        if reply.status == 200 and "token" in reply.json:
            self.headers["openspecimen"] = {"X-OS-API-TOKEN": reply.json["token"]}
        return reply

    async def take_token(
        self, client_id: str = seed.CLIENT_ID, secret: str = seed.CLIENT_SECRET, **form: str | None
    ) -> Reply:
        """Get a Clinical One token; it is kept for the requests that follow."""
        whole = {"grant_type": "client_credentials", "scope": seed.SCOPE, **form}
        content = {name: value for name, value in whole.items() if value is not None}
        headers = {"Authorization": aiohttp.encode_basic_auth(client_id, secret)}
        reply = await self.send("POST", self.addresses["token_url"], data=content, headers=headers)
        if reply.status == 200:
            self.headers["clinical_one"] = {"Authorization": f"Bearer {reply.json['access_token']}"}
        return reply

    async def openspecimen(self, method: str, path: str, json: object = None, **options: Any) -> Reply:
        """One request to OpenSpecimen; `path` follows `/rest/ng/`."""
        url = f"{self.addresses['openspecimen_url']}/rest/ng/{path}"
        headers = {**self.headers["openspecimen"], **options.pop("headers", {})}
        return await self.send(method, url, json=json, headers=headers, **options)

    async def registration(self, number: object = 1) -> Reply:
        """Read a registration."""
        return await self.openspecimen("GET", f"collection-protocol-registrations/{number}")

    async def update(self, number: object, body: object) -> Reply:
        """Update a registration."""
        return await self.openspecimen("PUT", f"collection-protocol-registrations/{number}", body)

    async def clinical_one(self, method: str, path: str, json: object = None, **options: Any) -> Reply:
        """One request to Clinical One; `path` follows the study's mode."""
        version, study_id = options.pop("version", "v1.0"), options.pop("study_id", seed.STUDY_ID)
        mode = options.pop("mode", "test")
        url = f"{self.addresses['clinical_one_url']}/ec-ors-svc/rest/{version}/studies/{study_id}/{mode}/{path}"
        return await self.send(method, url, json=json, headers=self.headers["clinical_one"], **options)

    async def dispensation(self, kit: int = 1, **options: Any) -> Reply:
        """Who holds a kit."""
        return await self.clinical_one("GET", f"inventory/kits/{seed.inventory_id(kit)}/dispensation", **options)

    async def register(self, subject: int, kit: int, **given: Any) -> Reply:
        """Register a kit for a subject; device-to-cloud unless `vendorCode` is given."""
        code = {"vendorCode": "XYZ123"} if "vendorCode" in given else {"subjectNumber": "siteA-1"}
        body = {"inventoryId": seed.inventory_id(kit), "mSubjectId": f"M{subject}", **code, **given}
        body = {name: value for name, value in body.items() if value is not None}
        return await self.clinical_one("POST", f"subjects/{seed.subject_id(subject)}/register-device", body)

    async def history(self, subject: int = 1, *, version: str = "v10.0", **params: str) -> Reply:
        """A subject's dispensation history."""
        given = {"visitId": seed.VISIT_ID, "asofdate": "2100-01-01T00:00:00.000Z"} if version == "v10.0" else {}
        query = {name: value for name, value in {**given, **params}.items() if value}
        path = f"subjects/{seed.subject_id(subject)}/dispensation-history"
        return await self.clinical_one("GET", path, version=version, params=query)
