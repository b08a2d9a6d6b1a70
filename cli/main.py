"""`onboard`: the commands, and what every command does with an error a user can cause."""

import logging
import os
import sys
from typing import Final

from cyclopts import App, CycloptsError
from rich.console import Console

from cli.faults import place_of
from onboarding import __version__
from onboarding.endings import EXIT_BAD_INPUT, EXIT_FAULT
from onboarding.errors import BadInput, OnboardingError, RequestConflict

app: Final = App(
    name="onboard",
    version=__version__,
    help="Onboard clinical-trial subjects: registration (OpenSpecimen), dispensation, mHealth device and DND exception "
    "(Oracle Clinical One). A crash at any instant neither loses nor repeats an effect.",
    help_epilogue="Exit status: 0 all onboarded, 3 something waits, 4 something needs attention, 2 bad input, 1 fault.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # main() says how to go on
)
# The help is repeated here so that the list of commands does not import them all.
_COMMANDS: Final = {
    "demo": ("cli.demo:demo", "Show the product at work on this machine, with stand-ins for both vendors."),
    "up": (
        "cli.up:up",
        "Run everything on this machine until Ctrl-C: the Prefect page, the deployments, stand-ins for the vendors.",
    ),
    "setup": (
        "cli.setup:setup",
        "Set up settings, blocks, work pool, automations and deployments; again: what differs.",
    ),
    "subject": ("cli.subject:subject", "Onboard one subject from a JSON file."),
    "batch": ("cli.batch:batch", "Onboard many subjects from a file."),
    "trigger": ("cli.trigger:trigger", "Start a run through the Prefect API, and follow it to its end."),
    "resume": ("cli.resume:resume", "Go on with cases where they stopped."),
    "decide": ("cli.decide:decide", "Decide about a case that needs a person."),
    "status": ("cli.look:status", "Show the cases of the ledger, the newest first."),
    "show": ("cli.look:show", "Show one case: its steps, what to do, and everything that happened to it."),
    "doctor": (
        "cli.doctor:doctor",
        "Check settings, key, ledger, log-ins and rights. Nothing is changed on the other systems.",
    ),
    "migrate": ("cli.ledger:migrate", "Make the ledger's tables, or bring them up to date."),
    "sandbox": ("cli.sandbox:sandbox", "Run stand-ins for OpenSpecimen and Clinical One until Ctrl-C."),
}
for name, (place, what) in _COMMANDS.items():
    app.command(place, name=name, help=what)


def main() -> None:
    """Run one command and exit with its status; nothing a user can cause ends in a traceback."""
    logging.getLogger("onboarding").setLevel(logging.WARNING)
    _say_what_the_ledger_logs()
    # A second Ctrl-C may meet a connection that is being closed: it would tell that with all of the stack.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    os.environ.setdefault("DO_NOT_TRACK", "1")  # else Prefect's client tells its makers of interactive use
    try:
        status = app(sys.argv[1:], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        command = sys.argv[1] + " " if sys.argv[1:] and sys.argv[1] in _COMMANDS else ""
        _say(str(error), f"Try 'onboard {command}--help'.")
        status = EXIT_BAD_INPUT
    except (BadInput, RequestConflict) as error:
        _say(*str(error).splitlines())
        status = EXIT_BAD_INPUT
    except OnboardingError as error:
        _say(*str(error).splitlines())
        status = EXIT_FAULT
    except KeyboardInterrupt:
        _say(
            "Stopped. What was under way is kept in the ledger: 'onboard status' shows it, 'onboard resume CASE' goes on."
        )
        status = EXIT_FAULT
    except BrokenPipeError:
        status = _reader_went_away()
    except Exception as error:  # noqa: BLE001 - a traceback helps no user, and an exception's text can hold personal data
        _say(f"unexpected {type(error).__name__} at {place_of(error)}; this is a mistake of ours, please report it.")
        status = EXIT_FAULT
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _reader_went_away()  # after all was done: the status stands
    sys.exit(status if isinstance(status, int) else 0)


def _reader_went_away() -> int:
    """Nobody reads our output any more (``| head``): leave without a word, not even from the interpreter's own flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_FAULT


def _say_what_the_ledger_logs() -> None:
    log, handler = logging.getLogger("onboarding.ledger"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("onboard: %(message)s"))
    log.addHandler(handler)
    log.propagate = False  # Prefect, once it is imported, would show it a second time


def _say(*lines: str) -> None:
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for line in lines:
        console.print(f"onboard: {line}")


if __name__ == "__main__":
    main()
