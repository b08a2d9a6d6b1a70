"""Runs `onboard` commands, each in a process of its own forked from one that has imported the command line already.

Importing takes a second, forking a few milliseconds, so hundreds of commands can be tried. Reads one JSON line for each
command from standard input and answers with one: its exit status.
"""

import io
import json
import os
import sys
import time
import traceback
from typing import Any, NoReturn

import cli.batch
import cli.decide
import cli.doctor
import cli.ledger
import cli.look
import cli.resume
import cli.setup
import cli.subject
import cli.up  # noqa: F401 - so that no command has to import them
import onboarding.ledger.migrations  # noqa: F401 - as above
from cli.main import main

_READ, _WRITE = os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC


def _become(command: dict[str, Any]) -> NoReturn:
    """In the forked child: take the command's place in the world, run it, and leave with its status."""
    for handle, path, flags in ((0, "in", _READ), (1, "out", _WRITE), (2, "err", _WRITE)):
        os.dup2(os.open(command[path], flags, 0o600), handle)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), "utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), "utf-8")
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", "backslashreplace", write_through=True)
    os.chdir(command["folder"])
    os.environ.clear()
    os.environ.update(command["environment"])
    time.tzset()
    sys.argv = ["onboard", *map(os.fsdecode, (word.encode("utf-8", "surrogateescape") for word in command["words"]))]
    status = 1
    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - what Python itself would do
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def serve() -> None:
    """Run commands until standard input ends."""
    _answer("ready")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
        _, ended = os.waitpid(child, 0)
        _answer({"status": os.waitstatus_to_exitcode(ended)})


def _answer(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve()
