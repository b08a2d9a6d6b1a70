"""Compiling what work on a case needs before there is work: the first use of a statement takes longer than all later ones."""

from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Final

from sqlalchemy import Connection

from onboarding.ledger import preparing, rows
from onboarding.ledger.fixed import FixedWrite
from onboarding.ledger.ledger import Ledger

_MODULES: Final[tuple[ModuleType, ...]] = (preparing, rows)


def warm(ledger: Ledger) -> None:
    """Compile for this ledger's database; nothing is written. Raises ``LedgerError`` if it does not answer."""
    ledger.store.read(_compile)


def _compile(connection: Connection) -> None:
    dialect = connection.dialect
    for module in _MODULES:
        for write in fixed_writes(module, dialect.name):
            write.ready(dialect, ())


def fixed_writes(module: ModuleType, database: str) -> Iterator[FixedWrite]:
    """The statements of a module for a database, also those in its tables of statements."""
    for value in vars(module).values():
        if isinstance(value, FixedWrite):
            yield value
        elif isinstance(value, Mapping):
            some = [value[database]] if database in value else value.values()  # some tables go by database
            yield from (one for one in some if isinstance(one, FixedWrite))
