"""Searching bytes, files and databases for planted values, however they may be encoded there."""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote


def forms_of(text: str) -> dict[str, bytes]:
    """The bytes by which a text shows, by the name of the encoding. Base64 has three, as the text may begin anywhere."""
    raw = text.encode()
    forms = {
        "utf-8": raw,
        "utf-16-le": text.encode("utf-16-le"),
        "utf-16-be": text.encode("utf-16-be"),
        "utf-32-le": text.encode("utf-32-le"),
        "hex": raw.hex().encode(),
        "HEX": raw.hex().upper().encode(),
        "url": quote(text, safe="").encode(),
        "json": json.dumps(text)[1:-1].encode(),
        "reversed": raw[::-1],
    }
    for shift in range(3):
        whole = base64.b64encode(bytes(shift) + raw).rstrip(b"=")
        # The first and the last characters depend on the neighbours.
        forms[f"base64 from {shift}"] = whole[(0, 2, 3)[shift] : len(whole) - (len(whole) % 4 != 0)]
    return forms


def found_in(content: bytes, texts: Iterable[str]) -> list[str]:
    """Which of the texts show in the content, and in which form."""
    return [f"{text!r} as {name}" for text in texts for name, form in forms_of(text).items() if form in content]


def files_below(*folders: Path) -> Iterator[Path]:
    """Every file below the folders."""
    for folder in folders:
        yield from (path for path in sorted(folder.rglob("*")) if path.is_file())


def found_in_files(paths: Iterable[Path], texts: Iterable[str]) -> Mapping[str, list[str]]:
    """Which of the texts show in which file, by its name or its content."""
    wanted = list(texts)
    found = {str(path): found_in(path.read_bytes() + b"\n" + str(path).encode(), wanted) for path in paths}
    return {path: where for path, where in found.items() if where}
