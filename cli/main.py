"""`onboard`: the commands, and what every command does with an error a user can cause."""

import logging
import os
import sys
from typing import Final

from cyclopts import App, CycloptsError
from rich.console import Console

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
for name, place in {
    "demo": "cli.demo:demo",
    "subject": "cli.subject:subject",
    "resume": "cli.subject:resume",
    "status": "cli.look:status",
    "show": "cli.look:show",
    "doctor": "cli.doctor:doctor",
    "migrate": "cli.ledger:migrate",
    "sandbox": "cli.sandbox:sandbox",
}.items():
    app.command(place, name=name)


def main() -> None:
    """Run one command and exit with its status; nothing a user can cause ends in a traceback."""
    logging.getLogger("onboarding").setLevel(logging.WARNING)
    try:
        status = app(sys.argv[1:], exit_on_error=False, print_error=False)
    except CycloptsError as error:
        _say(str(error), f"Try 'onboard {sys.argv[1] if len(sys.argv) > 1 else ''} --help'.".replace("  ", " "))
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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away; that is no fault
        status = EXIT_FAULT
    sys.exit(status if isinstance(status, int) else 0)


def _say(*lines: str) -> None:
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for line in lines:
        console.print(f"onboard: {line}")


if __name__ == "__main__":
    main()
