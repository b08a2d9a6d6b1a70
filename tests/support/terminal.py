"""Commands on a terminal, as a person sees them."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Callable, Mapping

from tests.support.installation import COMMAND, Installation


def on_terminal(
    installation: Installation,
    *words: str,
    columns: int = 100,
    term: str = "xterm",
    changed: Mapping[str, str | None] | None = None,
    meanwhile: Callable[[bytes], None] = lambda _: None,
) -> str:
    """Everything that a command prints on a terminal of so many columns; it ends with status 0.

    ``changed``: variables set, or taken out (None). ``meanwhile``: is told what was printed by then, again and again.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = installation.changed({"COLUMNS": None, "LINES": None, "TERM": term, **(changed or {})})
    with subprocess.Popen(
        [*COMMAND, *words], env=environment, cwd=installation.folder, stdout=theirs, stderr=theirs, stdin=theirs
    ) as process:
        os.close(theirs)
        printed = b""
        try:
            while chunk := os.read(ours, 65536):
                printed += chunk
                meanwhile(printed)
        except OSError:  # Linux's word for a terminal that everyone has left
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0, printed.decode(errors="replace")
    return printed.decode()
