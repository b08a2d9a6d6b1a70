"""The Clinical One stand-in: `ec-ors-svc`, the randomization and supplies service.

Order of checks: token (401), study, version and mode (404), right in the mode (403), then the call's own rules.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vendor_sandbox import clinical_one_errors as phrases
from vendor_sandbox import devices, dnd_exceptions
from vendor_sandbox.answers import Answer, html_answer, json_answer
from vendor_sandbox.clinical_one_errors import OrsRefusal, ors_refusal
from vendor_sandbox.clinical_one_world import CLOUD_TO_CLOUD, MODES, ClinicalOneWorld, Device, StudyMode
from vendor_sandbox.effects import EffectLog
from vendor_sandbox.requests import Route, Staleness, VendorRequest
from vendor_sandbox.switches import Switches
from vendor_sandbox.uuids import derived, normalised

SERVICE_SCOPE = ".ec-ors-svc.all"
EMPTY_BODY = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A documented call: the right it needs and the versions of the path it exists in."""

    right: str
    versions: tuple[str, ...] = ("v1.0",)


CALLS: Mapping[str, Call] = {
    "dispensation": Call("OrsInventoryGet"),
    "dispensation_history": Call("OrsSubjectVisitGet", ("v10.0", "v12.0")),
    "register_device": Call("DeviceActionsPost"),
    "access_code": Call("DeviceActionsPost"),
    "deregister_device": Call("DeviceActionsPost"),
    "list_exceptions": Call("DispensationExceptionGet"),
    "create_exception": Call("DispensationExceptionPost"),
    # Printed so by the vendor: reading one needs another right than listing all.
    "read_exception": Call("OrsInventoryGet"),
    "update_exception": Call("DispensationExceptionPost"),
    "delete_exception": Call("DispensationExceptionPost"),
}
RIGHTS = sorted({call.right for call in CALLS.values()})

_DND_SEGMENTS = {
    "dndexception": ("dndexception",),
    "DND Exception": ("DND Exception",),
    "both": ("dndexception", "DND Exception"),
}


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a request takes place."""

    request: VendorRequest
    study_id: str
    mode_name: str
    mode: StudyMode


class ClinicalOne:
    """Handles one complete request at a time, without waiting: what it does is atomic."""

    def __init__(self, world: ClinicalOneWorld, switches: Switches, effects: EffectLog) -> None:
        self.world = world
        self.switches = switches
        self._effects = effects
        self._made = 0
        self._handlers: Mapping[str, Callable[[Scene], Any]] = {
            "dispensation": self._dispensation,
            "dispensation_history": self._history,
            "register_device": self._register,
            "access_code": self._access_code,
            "deregister_device": self._deregister,
            "list_exceptions": self._list,
            "create_exception": self._create,
            "read_exception": self._read,
            "update_exception": self._update,
            "delete_exception": self._delete,
        }

    def route(self, method: str, segments: Sequence[str]) -> Route:
        """Which call a request is for, whatever its version, study and mode."""
        if len(segments) < 7 or tuple(segments[:2]) != ("ec-ors-svc", "rest") or segments[3] != "studies":
            return Route(None)
        ids = {"version": segments[2], "study_id": segments[4], "mode": segments[5]}
        call: str | None = None
        match (method, *segments[6:]):
            case ("GET", "inventory", "kits", inventory_id, "dispensation"):
                call = "dispensation"
                ids["inventory_id"] = inventory_id
            case ("GET", "subjects", subject_id, "dispensation-history"):
                call = "dispensation_history"
                ids["subject_id"] = subject_id
            case ("POST", "subjects", subject_id, "register-device"):
                call = "register_device"
                ids["subject_id"] = subject_id
            case ("PUT", "subjects", subject_id, "devices", inventory_id, "access-code"):
                call = "access_code"
                ids |= {"subject_id": subject_id, "inventory_id": inventory_id}
            case ("DELETE", "subjects", subject_id, "devices", inventory_id):
                call = "deregister_device"
                ids |= {"subject_id": subject_id, "inventory_id": inventory_id}
            case (_, segment, *rest) if segment in _DND_SEGMENTS[self.switches.dnd_path] and len(rest) < 2:
                call = _exception_call(method, bool(rest))
                ids |= {"exception_id": rest[0]} if rest else {}
        return Route(call, ids)

    def handle(self, request: VendorRequest) -> Answer:
        """Answer a request, applying its effect."""
        call = request.route.call
        if call is None:
            return html_answer(404, request.path)
        try:
            body = self._handlers[call](self._scene(request, CALLS[call]))
        except OrsRefusal as refused:
            return ors_refusal(refused, self.switches)
        if isinstance(body, str) and body == EMPTY_BODY:
            return Answer(200)
        if self.switches.wrap_results:
            body = {"status": "Success", "version": 1, "result": body}
        return json_answer(body)

    def forget_token(self, request: VendorRequest) -> None:
        """End the token a request carries."""
        self.world.tokens.pop(_bearer(request), None)

    def _scene(self, request: VendorRequest, call: Call) -> Scene:
        token = self.world.tokens.get(_bearer(request))
        if token is None or token.expires <= time.monotonic():
            raise OrsRefusal(401, phrases.UNAUTHORIZED)
        ids = request.route.ids
        study_id, mode_name = normalised(ids["study_id"]), ids["mode"]
        study = self.world.studies.get(study_id or "")
        if study_id is None or study is None or ids["version"] not in call.versions:
            raise OrsRefusal(404, phrases.STUDY_OR_VERSION)
        if mode_name not in MODES:
            raise OrsRefusal(400, phrases.INVALID_PARAMETERS, "mode")
        in_scope = any(scope.endswith(SERVICE_SCOPE) for scope in token.scopes)
        if not in_scope or call.right not in token.client.rights.get(mode_name, []):
            raise OrsRefusal(403, phrases.FORBIDDEN, call.right)
        if mode_name not in study:
            raise OrsRefusal(404, phrases.STUDY_OR_VERSION)
        return Scene(request, study_id, mode_name, study[mode_name])

    def _dispensation(self, scene: Scene) -> Any:
        return devices.dispensation(scene.mode, _path_id(scene, "inventory_id"), self.switches)

    def _history(self, scene: Scene) -> Any:
        subject_id = _path_id(scene, "subject_id")
        version = scene.request.route.ids["version"]
        return devices.dispensation_history(scene.mode, subject_id, scene.request.query, version)

    def _register(self, scene: Scene) -> Any:
        body = _body(scene.request, phrases.INVALID_PARAMETERS)
        subject_id = normalised(scene.request.route.ids["subject_id"]) or ""
        device, new = devices.register(scene.mode, subject_id, body)
        changed = ["id", "accessId", "otp"] if new else ["accessId", "otp"]
        self._record(scene, "device_registered", _device_key(device), changed)
        hidden = device.connection == CLOUD_TO_CLOUD and self.switches.cloud_to_cloud_answer == "id_only"
        return devices.credentials(device, with_codes=not hidden)

    def _registered(self, scene: Scene) -> Device:
        ids = scene.request.route.ids
        subject_id, inventory_id = normalised(ids["subject_id"]) or "", normalised(ids["inventory_id"]) or ""
        return devices.registered_device(scene.mode, subject_id, inventory_id, scene.request.query.get("mSubjectId"))

    def _access_code(self, scene: Scene) -> Any:
        device = self._registered(scene)
        device.codes += 1
        self._record(scene, "access_code_issued", _device_key(device), ["accessId", "otp"])
        return devices.credentials(device, with_codes=True)

    def _deregister(self, scene: Scene) -> Any:
        device = self._registered(scene)
        devices.deregister(scene.mode, device)
        self._record(scene, "device_deregistered", _device_key(device), ["id"])
        return "Success"

    def _list(self, scene: Scene) -> Any:
        stale = scene.request.stale
        if stale is None and self.switches.stale_list_changes:
            stale = Staleness(changes=self.switches.stale_list_changes)
        items = scene.mode.exceptions.as_of(stale, time.monotonic())
        return {"dndExceptions": [dnd_exceptions.written(one, content) for one, content in items.items()]}

    def _create(self, scene: Scene) -> Any:
        content = dnd_exceptions.read_exception(_body(scene.request, phrases.DND_NOT_VALID))
        self._made += 1
        exception_id = derived("dnd-exception", scene.study_id, scene.mode_name, self._made)
        scene.mode.exceptions.put(exception_id, content, time.monotonic())
        self._record_exception(scene, "dnd_exception_created", exception_id, content)
        return EMPTY_BODY if self.switches.create_answer == "empty" else {"id": exception_id}

    def _read(self, scene: Scene) -> Any:
        exception_id = _path_id(scene, "exception_id")
        content = scene.mode.exceptions.items.get(exception_id)
        # An array, as documented; no status is documented for an unknown id (inferred: nothing in it).
        return [] if content is None else [dnd_exceptions.written(exception_id, content)]

    def _update(self, scene: Scene) -> Any:
        exception_id = self._existing_exception(scene)
        content = dnd_exceptions.read_exception(_body(scene.request, phrases.DND_NOT_VALID))
        scene.mode.exceptions.put(exception_id, content, time.monotonic())
        self._record_exception(scene, "dnd_exception_updated", exception_id, content)
        return {"id": exception_id}

    def _delete(self, scene: Scene) -> Any:
        exception_id = self._existing_exception(scene)
        content = scene.mode.exceptions.items[exception_id]
        scene.mode.exceptions.remove(exception_id, time.monotonic())
        self._record_exception(scene, "dnd_exception_deleted", exception_id, content)
        return EMPTY_BODY

    def _existing_exception(self, scene: Scene) -> str:
        exception_id = _path_id(scene, "exception_id")
        if exception_id not in scene.mode.exceptions.items:
            raise OrsRefusal(400, phrases.DND_NOT_VALID, "unknown exception")
        return exception_id

    def _record_exception(self, scene: Scene, effect: str, exception_id: str, content: Mapping[str, Any]) -> None:
        key = {"dnd_exception_id": exception_id, "content_sha256": dnd_exceptions.content_sha256(content)}
        self._record(scene, effect, key, list(content))

    def _record(self, scene: Scene, effect: str, key: Mapping[str, object], changed: Sequence[str]) -> None:
        place = {"study_id": scene.study_id, "mode": scene.mode_name}
        self._effects.record(scene.request, effect, {**place, **key}, changed)


def _exception_call(method: str, one: bool) -> str | None:
    if one:
        return {"GET": "read_exception", "PUT": "update_exception", "DELETE": "delete_exception"}.get(method)
    return {"GET": "list_exceptions", "POST": "create_exception"}.get(method)


def _bearer(request: VendorRequest) -> str:
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _path_id(scene: Scene, name: str) -> str:
    found = normalised(scene.request.route.ids[name])
    if found is None:
        raise OrsRefusal(400, phrases.INVALID_PARAMETERS, name)
    return found


def _body(request: VendorRequest, phrase: str) -> Mapping[str, Any]:
    if "json" not in request.headers.get("Content-Type", ""):
        raise OrsRefusal(400, phrase, "the content type is not JSON")
    try:
        value = json.loads(request.body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise OrsRefusal(400, phrase, "the body is not JSON") from error
    if not isinstance(value, dict):
        raise OrsRefusal(400, phrase, "the body is not an object")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _device_key(device: Device) -> dict[str, object]:
    return {
        "subject_id": device.subject_id,
        "inventory_id": device.inventory_id,
        "m_subject_id": device.m_subject_id,
        "connection": device.connection,
    }
