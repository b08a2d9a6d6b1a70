"""Clinical One: DND (Do Not Dispense) exceptions. They belong to a study, and nothing stops a second equal one.

Source: the vendor's pages on creating, listing, reading, updating and deleting DND exceptions. Only the documented
rules of the schema are checked; scopes that make no sense are not refused by any documented rule.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from vendor_sandbox.clinical_one_errors import DND_NOT_VALID, OrsRefusal
from vendor_sandbox.uuids import normalised

DND_MAXIMUM = 99_999


def _not_valid(field: str) -> OrsRefusal:
    return OrsRefusal(400, DND_NOT_VALID, field)


def _unique_ids(value: object, field: str, *, minimum: int) -> list[str]:
    if not isinstance(value, list) or len(value) < minimum:
        raise _not_valid(field)
    ids = [one for one in map(normalised, value) if one is not None]
    if len(ids) < len(value) or len(set(ids)) < len(ids):
        raise _not_valid(field)
    return ids


def _visit(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _not_valid("visitDND")
    visit, dnd = normalised(value.get("visitSrcId")), value.get("dnd")
    if visit is None:
        raise _not_valid("visitDND.visitSrcId")
    if isinstance(dnd, bool) or not isinstance(dnd, int | float) or not 0 <= dnd <= DND_MAXIMUM:
        raise _not_valid("visitDND.dnd")
    return {"visitSrcId": visit, "dnd": dnd}


def read_exception(body: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a request, ids normalised; unknown keys are ignored.

    Raises:
        OrsRefusal: 400 with the one documented phrase; `detail` names the field.
    """
    if not isinstance(body.get("allCountries"), bool):
        raise _not_valid("allCountries")
    countries = body.get("countries") or []
    if not isinstance(countries, list) or not all(isinstance(one, str) and len(one) == 2 for one in countries):
        raise _not_valid("countries")
    visits = body.get("visitDND")
    if not isinstance(visits, list) or not visits:
        raise _not_valid("visitDND")
    read = [_visit(one) for one in visits]
    if len({(one["visitSrcId"], one["dnd"]) for one in read}) < len(read):
        raise _not_valid("visitDND")
    return {
        "allCountries": body["allCountries"],
        "countries": countries,
        "kitTypeSrcId": _unique_ids(body.get("kitTypeSrcId"), "kitTypeSrcId", minimum=1),
        "siteIds": _unique_ids(body.get("siteIds") or [], "siteIds", minimum=0),
        "visitDND": read,
    }


def content_sha256(content: Mapping[str, Any]) -> str:
    """A digest of what an exception says, the same for every order and spelling of it."""
    canonical = {
        "allCountries": content["allCountries"],
        "countries": sorted(set(content["countries"])),
        "kitTypeSrcId": sorted(content["kitTypeSrcId"]),
        "siteIds": sorted(content["siteIds"]),
        "visitDND": sorted((one["visitSrcId"], float(one["dnd"])) for one in content["visitDND"]),
    }
    return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()


def written(exception_id: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """An exception as the list answers it."""
    return {"dndExceptionId": exception_id, **content}
