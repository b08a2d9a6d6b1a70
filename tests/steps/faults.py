"""The faults of the matrix, by what they do, and what a read or an effect that meets them comes to."""

from collections.abc import Iterator
from typing import Any, Final

from tests.steps.lab import SYSTEM_OF
from tests.steps.matrix import Cell, Fault

READS: Final = ("read_registration", "dispensation", "dispensation_history", "list_exceptions")
LOGINS: Final = ("login", "token")
EFFECTS: Final = (
    ("update_registration", "device_to_cloud"),
    ("register_device", "device_to_cloud"),
    ("register_device", "cloud_to_cloud"),
    ("create_exception", "device_to_cloud"),
)
BEFORE: Final = {"when": "before"}
AFTER: Final = {"when": "after"}
_THROTTLED_IN_FULL: Final = frozenset({"read_registration", "register_device"})
_BOTH: Final = frozenset({"cut_reset", "held_past_the_deadline", "not_json"})
_SERVER_CODE: Final = {"openspecimen": "COMMON_SERVER_ERROR", "token": "SERVER_ERROR"}
_BIGGER_THAN_ALLOWED: Final = {"dispensation_history": 33, "list_exceptions": 33}


def server_code(call: str, status: int) -> str:
    """The code of a 5xx in the vendor's own shape."""
    return "SERVICE_UNAVAILABLE" if status == 503 else _SERVER_CODE.get(SYSTEM_OF[call], f"C1-ORS-{status}")


def throttled(call: str, *, full: bool) -> Iterator[Fault]:
    """A 429: in every shape for one call of each vendor, in the plainest for the others."""
    rows = (
        ("seconds", "vendor", 0.2),
        ("date", "vendor", 1),
        ("body", "vendor", 0.2),
        ("none", "vendor", 1),
        ("seconds", "html", 0.2),
        ("seconds", "json", 0.2),
        ("seconds", "empty", 0.2),
    )
    for hint, shape, wait_s in rows if full and call in _THROTTLED_IN_FULL else rows[:1]:
        rule = {"hint": hint, "shape": shape, "retry_after": wait_s, **BEFORE}
        yield Fault(f"429_{hint}_{shape}", "throttle", "THROTTLED", rule)


def failing_server(call: str, *, effect: bool, full: bool) -> Iterator[tuple[Fault, str]]:
    """Every 5xx, in the vendor's shape and others, before and after applying; each with its meaning."""
    doubt = "in_doubt" if effect else "unavailable"
    rows = [(500, "vendor"), (500, "html"), (503, "vendor"), (503, "html")]
    rows += [(500, "json"), (500, "empty"), (502, "vendor"), (502, "html"), (504, "vendor"), (504, "html")] * full
    for status, shape in rows:
        own_503 = status == 503 and (shape == "vendor" and SYSTEM_OF[call] != "token")
        code = server_code(call, status) if shape == "vendor" else _plain_code(status)
        for when in ("before", "after") if effect and status == 500 and full else ("before",):
            rule = {"status": status, "shape": shape, "when": when}
            meaning = "unavailable" if own_503 else doubt
            yield Fault(f"{status}_{shape}_{when}", "server_error", code, rule), meaning


def _plain_code(status: int) -> str:
    return "SERVICE_UNAVAILABLE" if status == 503 else "SERVER_ERROR"


def broken_answers(call: str, *, effect: bool, full: bool) -> Iterator[Fault]:
    """Cuts, time-outs, unreadable answers, proxies and redirects: in doubt for an effect, unavailable for a read.

    An effect meets the most telling ones both before and after it was applied, the others after: that is the case in which
    a careless client would repeat it.
    """
    size = _BIGGER_THAN_ALLOWED.get(call, 5)
    rows: list[tuple[str, str, str, dict[str, Any]]] = [
        ("cut_reset", "cut", "CUT", {"how": "reset"}),
        ("held_past_the_deadline", "hold", "DEADLINE_PASSED", {}),
        ("truncated", "truncate", "TRUNCATED", {}),
        ("oversized", "oversize", "OVERSIZED", {"mebibytes": size}),
        ("not_json", "wrong_body", "UNREADABLE_ANSWER", {"variant": "invalid_json"}),
        ("error_with_200", "wrong_body", "UNREADABLE_ANSWER", {"variant": "error_shape"}),
        ("page_200", "proxy_page", "UNREADABLE_ANSWER", {"status": 200}),
        ("page_403", "proxy_page", "UNEXPECTED_ANSWER", {"status": 403}),
        ("redirect_302", "redirect", "REDIRECTED", {"status": 302}),
    ]
    if full:
        rows += [
            ("cut_close", "cut", "CUT", {"how": "close"}),
            ("array", "wrong_body", "UNREADABLE_ANSWER", {"variant": "array"}),
            ("page_404", "proxy_page", "UNEXPECTED_ANSWER", {"status": 404}),
        ]
    for name, kind, code, rule in rows:
        for when in ("before",) if not effect else ("before", "after") if name in _BOTH else ("after",):
            yield Fault(f"{name}_{when}", kind, code, {**rule, "when": when})
    yield Fault("dripping", "drip", "DEADLINE_PASSED", {"interval_seconds": 0.2})


def empty_or_shapeless(call: str) -> Iterator[tuple[Fault, str]]:
    """A 200 with nothing in it, or another object than documented: what it means differs from call to call."""
    for name, kind, rule in (("empty", "empty", {}), ("shapeless", "wrong_body", {"variant": "shape"})):
        if call == "dispensation":
            yield Fault(name, kind, "NOT_DISPENSED", {**rule, **BEFORE}), "not_yet"
        elif call in READS or call in LOGINS:
            yield Fault(name, kind, "UNREADABLE_ANSWER", {**rule, **BEFORE}), "unavailable"
        elif call != "create_exception":
            for when in ("before", "after"):
                fault = Fault(f"{name}_{when}", kind, "UNREADABLE_ANSWER", {**rule, "when": when})
                yield fault, "in_doubt"


def cells_of_reads() -> Iterator[Cell]:
    """Every fault at every read and log-in; the finer shapes at one read of each vendor."""
    for call in (*READS, *LOGINS):
        full = call in ("read_registration", "dispensation")
        for fault in (*throttled(call, full=full), *broken_answers(call, effect=False, full=full)):
            yield Cell(call, fault, "unavailable")
        for fault, meaning in (*failing_server(call, effect=False, full=full), *empty_or_shapeless(call)):
            yield Cell(call, fault, meaning)


def cells_of_effects() -> Iterator[Cell]:
    """Every fault at every effect; the finer shapes not at both kinds of device."""
    for call, connection in EFFECTS:
        full = connection == "device_to_cloud"
        for fault in throttled(call, full=full):
            yield Cell(call, fault, "unavailable", connection=connection)
        for fault in broken_answers(call, effect=True, full=full):
            yield Cell(call, fault, "in_doubt", connection=connection)
        for fault, meaning in (*failing_server(call, effect=True, full=full), *empty_or_shapeless(call)):
            yield Cell(call, fault, meaning, connection=connection)


def cells_of_tokens() -> Iterator[Cell]:
    """A token that ends on the way is renewed once; a second 401 in a row is a refusal."""
    for call in (*READS, "update_registration", "register_device", "create_exception"):
        yield Cell(call, Fault("expired_token", "expire_token", None), "recovered", sent=2)
        code = "NOT_AUTHORISED" if SYSTEM_OF[call] == "openspecimen" else "C1-ORS-401"
        yield Cell(call, Fault("two_expired_tokens", "expire_token", code, {"times": 2}), "refused", sent=2)
        if call in READS:
            continue
        yield Cell(call, Fault("page_401", "proxy_page", None, {"status": 401, **BEFORE}), "recovered", sent=2)
        page = {"status": 401, "times": 2, **BEFORE}
        yield Cell(call, Fault("two_pages_401", "proxy_page", "NOT_AUTHORISED", page), "refused", sent=2)


def refusal(name: str, expected: str, /, **rule: Any) -> Fault:
    """A refusal in the vendor's shape, until it is taken away."""
    return Fault(name, "refuse", expected, {"nth": "every", **BEFORE, **rule})


def switched(fault: Fault, **switches: Any) -> Fault:
    """The same fault under other switches."""
    words = "_".join(map(str, switches.values()))
    return Fault(f"{fault.name}_{words}", fault.kind, fault.code, fault.rule, switches)


_LEAD_IN: Final = ("register_device", Fault("cut", "cut", None, AFTER))


def cells_of_probes() -> Iterator[Cell]:
    """Every fault at the access-code call, which is the probe of a device-to-cloud device in doubt."""
    for fault in throttled("access_code", full=False):
        yield Cell("access_code", fault, "unavailable", lead_in=_LEAD_IN)
    for fault in broken_answers("access_code", effect=True, full=False):
        yield Cell("access_code", fault, "in_doubt", lead_in=_LEAD_IN)
    for fault, meaning in (*failing_server("access_code", effect=True, full=False), *empty_or_shapeless("access_code")):
        yield Cell("access_code", fault, meaning, lead_in=_LEAD_IN)
    yield Cell("access_code", Fault("expired_token", "expire_token", None), "recovered", sent=2, lead_in=_LEAD_IN)
