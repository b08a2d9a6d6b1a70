"""Wall clocks that a test sets while it runs, this machine's own being nobody's to set.

A process started with ``WallClock.variables`` has a wall clock that is really shifted: its calls to the C library are
answered so. A PostgreSQL database has one for everything that asks ``clock_timestamp()`` by that name.
"""

import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest

_SOURCE = Path(__file__).with_suffix(".c")
_DATABASE = """
CREATE SCHEMA shifted;
CREATE SEQUENCE shifted.ahead MINVALUE -1000000000 START 0;
CREATE FUNCTION shifted.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    'SELECT pg_catalog.clock_timestamp() + make_interval(secs => (SELECT last_value FROM shifted.ahead))';
"""


class WallClock:
    """The wall clock of processes that are started with ``variables``; raises Skipped where that cannot be."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None or sys.platform != "linux":
            pytest.skip("a shifted wall clock needs Linux and a C compiler")
        library = folder / "wall_clock.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, _SOURCE, "-ldl"], check=True)
        self._ahead = folder / "ahead"
        self.set_ahead(0)
        self.variables: Mapping[str, str] = {"LD_PRELOAD": str(library), "WALL_CLOCK_AHEAD": str(self._ahead)}

    def set_ahead(self, seconds: int) -> None:
        """From now on it is ahead of the real one by so much, or behind if negative."""
        if not self._ahead.exists():
            self._ahead.write_bytes(bytes(8))
        with self._ahead.open("r+b") as file:  # in place: it is mapped
            file.write(struct.pack("q", seconds))


class DatabaseClock:
    """The wall clock of one PostgreSQL database, as connections made from now on see it.

    Its ``clock_timestamp`` is found before the built-in one; how far ahead it is stands in a sequence, which no transaction
    keeps from being seen at once.
    """

    def __init__(self, url: str) -> None:
        self._dsn = url.replace("+psycopg", "")
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(_DATABASE)
            connection.execute(
                "DO $$BEGIN EXECUTE format("
                "'ALTER DATABASE %I SET search_path = shifted, pg_catalog, public', current_database()); END$$"
            )

    def set_ahead(self, seconds: int) -> None:
        """From now on it is ahead of the real one by so much, or behind if negative."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute("SELECT setval('shifted.ahead', %s)", (seconds,))
