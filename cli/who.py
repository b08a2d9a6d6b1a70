"""Who works at the command line, for the trail."""

import getpass
import os
import socket


def actor() -> str:
    """Who works here, for the trail: the account and the machine."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"
