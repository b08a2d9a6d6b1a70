"""Which web addresses may be contacted, and why others are refused before anything is sent."""

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

_HOST_LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def is_loopback(host: str) -> bool:
    """Whether a host name can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address_problem(address: str, *, loopback_only: bool, allow_plain_http: bool) -> str | None:
    """Why this web address is not contacted, with what is allowed instead; None if it may be."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "not a web address; write it like https://host:8443/path."
    if parts.scheme not in ("http", "https") or not _is_host(host):
        return "not a web address; write it like https://host:8443/path."
    if parts.username or parts.password or parts.query or parts.fragment:
        return "must hold no user, password, query or fragment; give those in their own settings."
    if loopback_only and not is_loopback(host):
        return "is not on this machine, and ONBOARDING_LOOPBACK_ONLY allows no other; use the sandbox's address."
    if parts.scheme == "http" and not is_loopback(host) and not allow_plain_http:
        return "plain http is allowed to this machine only; use https (or set ONBOARDING_ALLOW_PLAIN_HTTP=true)."
    return None


def _is_host(name: str) -> bool:
    """Whether this can be a host name or an address at all; resolvers answer anything else with errors of their own."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        try:
            labels = name.removesuffix(".").encode("idna").decode("ascii").split(".")
        except UnicodeError:  # an empty label, one that is too long, or characters that no name has
            return False
        return all(_HOST_LABEL.fullmatch(label) for label in labels)
    return True
