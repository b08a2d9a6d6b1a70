"""The system's Chromium, driven from here: an empty profile each time, and no name but this machine's is resolved."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from playwright.sync_api import Browser, sync_playwright

_NAMES: Final = ("chromium", "chromium-browser")
_OPTIONS: Final = (
    "--no-sandbox",  # which needs rights that a container does not give; it opens pages of this machine only
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)


def installed_chromium() -> str | None:
    """Where the system's Chromium is; None if there is none. None is ever downloaded."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


@contextmanager
def running_chromium(executable: str) -> Iterator[Browser]:
    """Run it for the duration of the block. It ends with the process of its driver, which ends with this one."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=_OPTIONS, timeout=120_000)
        try:
            yield browser
        finally:
            browser.close()
