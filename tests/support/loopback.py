"""Keeps the test process on this machine: a connection to any other address is refused and remembered."""

import ipaddress
import sys
from dataclasses import dataclass, field


class ForbiddenContact(ConnectionError):
    """A test tried to reach another machine; nothing was sent."""


@dataclass
class ForbiddenContacts:
    """The addresses that were refused since they were last taken."""

    _addresses: list[str] = field(default_factory=list)

    def add(self, address: str) -> None:
        """Remembers a refused address."""
        self._addresses.append(address)

    def take(self) -> list[str]:
        """Gives what was refused and forgets it."""
        taken, self._addresses = self._addresses, []
        return taken


def is_loopback(host: str) -> bool:
    """Tells whether an address literal or name means this machine."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def forbid_all_but_loopback() -> ForbiddenContacts:
    """Watches every connect of this process from now on; an audit hook cannot be taken off again.

    Libraries written in C (libpq) are not seen; the tests give those no address but the test server's.
    """
    contacts = ForbiddenContacts()

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event not in {"socket.connect", "socket.sendto"}:
            return
        address = arguments[1]
        # Addresses of Unix sockets are plain strings or bytes.
        if isinstance(address, tuple) and isinstance(address[0], str) and not is_loopback(address[0]):
            contacts.add(f"{address[0]}:{address[1]}")
            raise ForbiddenContact(f"tests may only contact this machine, not {address[0]}")

    sys.addaudithook(watch)
    return contacts
