"""A clean environment for tests and for the processes they start.

Whatever the shell exports, no test may reach a real vendor, a real Prefect server or a real ledger, nor write into the
home folder of the person who runs it. Only the standard library is imported here, since it runs before anything else.
"""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path

# Settings of the project, of Prefect (and of the queue inside its server) and of libpq, and the XDG folders.
_HOSTILE_PREFIXES = ("ONBOARDING_", "PREFECT_", "DOCKET_", "PG", "XDG_")
_HOSTILE_NAMES = frozenset(
    {
        "ALL_PROXY",
        "DATABASE_URL",
        "FTP_PROXY",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "NETRC",
        "NO_PROXY",
        "PYTEST_ADDOPTS",
        "PYTEST_PLUGINS",
        "PYTHONHOME",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "PYTHONWARNINGS",
        "REQUESTS_CA_BUNDLE",
        "SSLKEYLOGFILE",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
    }
)
# Prefect reports usage and shows advertisements unless told not to.
QUIET_PREFECT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}


def is_hostile(name: str) -> bool:
    """Tells whether an inherited variable could change what the tests do or whom they contact."""
    upper = name.upper()
    return upper.startswith(_HOSTILE_PREFIXES) or upper in _HOSTILE_NAMES


def clean_environment(inherited: Mapping[str, str], home: Path) -> dict[str, str]:
    """Gives the variables that tests run with: `inherited` without the hostile ones, and a home folder of their own."""
    kept = {name: value for name, value in inherited.items() if not is_hostile(name)}
    return kept | {"HOME": str(home), "PREFECT_HOME": str(home / "prefect")} | QUIET_PREFECT


def scrub_this_process() -> Path:
    """Replaces this process's environment by a clean one; returns the temporary home folder, removed at exit.

    SIGINT is heeded again by it and all it starts: a shell has what a script runs in its background ignore it, for good, and
    whatever is stopped by SIGINT, as Prefect's worker also is by SIGTERM, would not end.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    home = Path(tempfile.mkdtemp(prefix="onboarding-tests-"))
    owner = os.getpid()

    def remove_home() -> None:
        if os.getpid() == owner:  # not in a forked child
            shutil.rmtree(home, ignore_errors=True)

    atexit.register(remove_home)
    cleaned = clean_environment(os.environ, home)
    os.environ.clear()
    os.environ.update(cleaned)
    return home
