"""A contender that skips work is worth nothing: the sandbox tells whether each effect happened, once, and with which body."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.subjects import PER_SUBJECT, SHARED, Calls, digest
from vendor_sandbox.seed import SeededSubject


def problems(
    effects: Iterable[Mapping[str, Any]], counts: Mapping[str, int], numbers: range, addresses: Mapping[str, str]
) -> list[str]:
    """What a contender did otherwise than all others, a line each; empty if nothing.

    Args:
        effects: the sandbox's, since the contender began.
        counts: requests per call.
        numbers: of the subjects that it had to onboard.
        addresses: the sandbox's.
    """
    found = Counter((one["effect"], _whose(one), one["body_sha256"]) for one in effects)
    wanted = _wanted(numbers, addresses)
    lines = [f"{key[0]} of {key[1]}: {found[key]} times" for key in wanted if found[key] != 1]
    lines += [f"{key[0]} of {key[1]}: not asked for" for key in found if key not in wanted]
    lines += [f"{call}: {counts.get(call, 0)} requests" for call in PER_SUBJECT if counts.get(call, 0) != len(numbers)]
    lines += [f"{call}: no request" for call in SHARED if not counts.get(call)]
    return lines


def _wanted(numbers: range, addresses: Mapping[str, str]) -> set[tuple[str, object, str]]:
    calls = Calls(addresses)
    wanted: set[tuple[str, object, str]] = {("dnd_exception_created", "study", digest(calls.exceptions()[1].body))}
    for number in numbers:
        subject, (_, update, _, _, device) = SeededSubject(number), calls.of_subject(number)
        wanted.add(("registration_updated", subject.registration_id, digest(update.body)))
        wanted.add(("device_registered", subject.inventory_id, digest(device.body)))
    return wanted


def _whose(effect: Mapping[str, Any]) -> object:
    key = effect["key"]
    return key.get("registration_id") or key.get("inventory_id") or "study"
