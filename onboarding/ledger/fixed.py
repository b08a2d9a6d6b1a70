"""Statements that every case needs, each compiled once for a database and run with ready values.

SQLAlchemy takes longer to execute a statement, and far longer to compile one, than SQLite takes to run it. Here its compiler
and its types are asked once; then only the values are bound, by those types, and handed to the driver.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import JSON, Column, Connection, CursorResult, Dialect, Insert, Update
from sqlalchemy.types import TypeEngine

from onboarding.ledger.columns import Row
from onboarding.ledger.tables import UtcDateTime

_Convert = Callable[[Any], Any]
_json: Final = json.JSONEncoder().encode  # what SQLAlchemy would call, if its engine is given nothing else
CHUNK: Final = 400
"""Keys in one statement: databases bound the number of its values."""


@dataclass(frozen=True)
class Ready:
    """A statement with the values of its rows, as the driver takes them."""

    text: str
    values: Sequence[Any]

    def run(self, connection: Connection) -> CursorResult[Any]:
        """Write these rows."""
        return connection.exec_driver_sql(self.text, self.values)


class FixedWrite:
    """An INSERT or UPDATE of many rows that always names the same columns; its values go by the names of its parameters."""

    def __init__(self, statement: Insert | Update, columns: Sequence[str]) -> None:
        self._statement = statement
        self._columns = list(columns)
        self._compiled: dict[str, _Compiled] = {}

    def run(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> CursorResult[Any]:
        """Write these rows; each holds at least the parameters' values."""
        return self.ready(connection.dialect, rows).run(connection)

    def ready(self, dialect: Dialect, rows: Sequence[Mapping[str, Any]]) -> Ready:
        """What writes these rows, for ``run``."""
        compiled = self._compiled.get(dialect.name)
        if compiled is None:
            compiled = self._compiled[dialect.name] = _Compiled(self._statement, self._columns, dialect)
        return Ready(compiled.text, [compiled.values(row) for row in rows])


class _Compiled:
    """A statement for one kind of database."""

    def __init__(self, statement: Insert | Update, columns: list[str], dialect: Dialect) -> None:
        made = statement.compile(dialect=dialect, column_keys=columns)
        self.text: Final = str(made)
        self._positional = made.positional
        names = made.positiontup if made.positional else list(made.binds)
        assert names is not None
        assert len(names) > 1, "an itemgetter of one gives no tuple"
        self._names = tuple(names)
        self._picked = itemgetter(*names)
        converts = (_converting(made.binds[name].type, dialect) for name in names)
        self._converts = [(index, convert) for index, convert in enumerate(converts) if convert is not None]
        # What the statement itself says, such as the states in a CASE, rather than each row.
        self._constants = {name: bind.value for name, bind in made.binds.items() if not bind.required}

    def values(self, row: Mapping[str, Any]) -> Any:
        """One row's values as the driver takes them."""
        values = list(self._picked({**self._constants, **row} if self._constants else row))
        for index, convert in self._converts:
            values[index] = convert(values[index])
        return tuple(values) if self._positional else dict(zip(self._names, values, strict=True))


def _converting(kind: TypeEngine[Any], dialect: Dialect) -> _Convert | None:
    convert = kind.dialect_impl(dialect).bind_processor(dialect)
    if isinstance(kind, JSON) and kind.none_as_null and dialect.name == "sqlite":
        # As SQLAlchemy's own, without all that this looks at each time.
        return lambda value: None if value is None else _json(value)
    if convert is not None and isinstance(kind, UtcDateTime):  # one moment stands in many rows of a transaction
        return lru_cache(maxsize=64)(convert)
    return convert


def _reading(kind: TypeEngine[Any], dialect: Dialect, of_driver: object) -> _Convert | None:
    return kind.dialect_impl(dialect).result_processor(dialect, of_driver)


class FixedRows:
    """Rows of a table as dictionaries, from what the driver gives for ``SELECT`` of all its columns in their order."""

    def __init__(self, columns: Sequence[Column[Any]]) -> None:
        self.columns: Final = list(columns)
        self.names: Final = ", ".join(f'"{column.name}"' for column in columns)
        self._columns = [column.name for column in columns]
        self._converts: dict[str, list[tuple[str, _Convert]]] = {}

    def read(self, connection: Connection, text: str, values: tuple[Any, ...]) -> list[Row]:
        """Run the statement ``text`` and give its rows."""
        result, dialect = connection.exec_driver_sql(text, values), connection.dialect
        converts = self._converts.get(dialect.name)
        if converts is None:
            assert result.cursor is not None, "a SELECT has rows"
            kinds = [kind for _, kind, *_ in result.cursor.description]  # as the driver calls the columns' types
            converts = self._converts[dialect.name] = [
                (column.name, convert)
                for column, kind in zip(self.columns, kinds, strict=True)
                if (convert := _reading(column.type, dialect, kind)) is not None
            ]
        rows = [dict(zip(self._columns, row, strict=True)) for row in result.all()]
        for row in rows:
            for name, convert in converts:
                row[name] = convert(row[name])
        return rows

    def by(self, connection: Connection, column: str, keys: Sequence[str], lock: str = "") -> Iterator[Row]:
        """The rows with one of ``keys`` in a column, in its order; ``lock``: what PostgreSQL is told of locking them."""
        text = f"SELECT {self.names} FROM {self.columns[0].table.name} WHERE {column}"  # noqa: S608 - names of ours
        for start in range(0, len(keys), CHUNK):
            some = keys[start : start + CHUNK]
            if connection.dialect.name == "sqlite":
                yield from self.read(connection, f"{text} IN ({marks(some)}) ORDER BY {column}", tuple(some))
            else:
                yield from self.read(connection, f"{text} = ANY (%s) ORDER BY {column} {lock}", (list(some),))


def marks(values: Sequence[object], each: str = "?") -> str:
    """SQLite's marks for so many values."""
    return ", ".join([each] * len(values))
