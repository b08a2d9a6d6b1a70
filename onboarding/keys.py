"""What the ledger's key does: encrypt columns, digest guessable values, and seal the trail.

One master key gives three keys of separate purpose (HKDF-SHA256). Ciphertexts are AES-256-GCM, bound by their associated
data to the row and column they were written for, so that none can be moved to another case unnoticed.
"""

import base64
import binascii
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from onboarding.errors import BadSettings, LedgerError

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_VERSION: Final = b"\x01"


class LedgerKey:
    """The key of one ledger. Its ``repr`` shows the public key id alone."""

    def __init__(self, master: bytes) -> None:
        if len(master) != KEY_BYTES:
            raise BadSettings([f"ONBOARDING_LEDGER_KEY: must be {KEY_BYTES} bytes in URL-safe base64."])
        self._aead = AESGCM(_derive(master, b"encryption"))
        self._digest_key = _derive(master, b"digest")
        self._trail_key = _derive(master, b"trail")
        self.key_id: Final = _derive(master, b"key id").hex()[:16]

    def __repr__(self) -> str:
        """Show the key's public id."""
        return f"LedgerKey({self.key_id})"

    @classmethod
    def from_text(cls, text: str) -> "LedgerKey":
        """Read a key as ``ONBOARDING_LEDGER_KEY`` and the key file hold it; raises ``BadSettings``."""
        try:
            master = base64.b64decode(text.strip().encode("ascii"), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise BadSettings([f"ONBOARDING_LEDGER_KEY: must be {KEY_BYTES} bytes in URL-safe base64."]) from None
        return cls(master)

    @staticmethod
    def new_text() -> str:
        """A new random key in the form of ``ONBOARDING_LEDGER_KEY``."""
        return base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode("ascii")

    def encrypt(self, plain: bytes, place: str) -> bytes:
        """Encrypt for one place, such as ``request/<case id>``; only that place can decrypt it."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._aead.encrypt(nonce, plain, place.encode())

    def decrypt(self, sealed: bytes, place: str) -> bytes:
        """Decrypt what ``encrypt`` wrote for this place, or raise ``LedgerError``."""
        nonce, text = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        with suppress(InvalidTag, ValueError):  # ValueError: too short to hold a nonce
            if sealed[:1] == _VERSION:
                return self._aead.decrypt(nonce, text, place.encode())
        raise LedgerError(
            f"the ledger's column {place} cannot be decrypted: it was changed, or belongs to another key; "
            "restore the ledger and its key from the same backup."
        )

    def digest(self, *parts: str) -> str:
        """A keyed digest of the parts, in hex: equal values are recognised, guessable ones cannot be tried out."""
        return _mac(self._digest_key, *parts)

    def seal(self, *parts: str) -> str:
        """The HMAC of one trail entry, in hex."""
        return _mac(self._trail_key, *parts)


def key_file(path: Path) -> Path:
    """Where a SQLite ledger's own key lies: beside it."""
    return path.with_name(path.name + ".key")


def read_key_file(path: Path) -> str | None:
    """The text of the key that lies beside this ledger, or None."""
    try:
        return key_file(path).read_text("ascii", errors="replace").strip()
    except FileNotFoundError:
        return None


def make_key_file(path: Path) -> str:
    """Make the key of a new ledger, mode 600; one that stands already is used (another process was first)."""
    place = key_file(path)
    text = LedgerKey.new_text()
    draft = place.with_name(f"{place.name}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
    try:
        try:
            os.write(handle, (text + "\n").encode())
            os.fsync(handle)
        finally:
            os.close(handle)
        os.link(draft, place)  # appears whole or not at all, and never replaces a key
    except FileExistsError:
        text = place.read_text("ascii", errors="replace").strip()
    finally:
        draft.unlink(missing_ok=True)
    _keep_folder(place.parent)
    return text


def _keep_folder(folder: Path) -> None:
    """Make sure that a new file's name survives a power cut: a ledger without its key is lost."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _derive(master: bytes, purpose: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"subject-onboarding ledger " + purpose).derive(
        master
    )


def _mac(key: bytes, *parts: str) -> str:
    pieces: list[bytes] = []
    for part in parts:
        data = part.encode()
        pieces += (len(data).to_bytes(8, "big"), data)  # lengths keep ("ab", "c") and ("a", "bc") apart
    return hmac.digest(key, b"".join(pieces), "sha256").hex()
