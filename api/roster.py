"""Who runs jobs: a table beside the jobs in which every worker signs now and then.

With `claims.py`, which stands on it, the only door to sqlalchemy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from service.errors import InvalidInput, Unavailable

SCHEMA: Final = "dbos"
"""Where tables lie in Postgres; SQLite has no schemas."""
CONNECT_S: Final = 5
"""Seconds a connection may take to come about."""
_PATIENCE: Final = {
    "connect_timeout": str(CONNECT_S),
    "tcp_user_timeout": "10000",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
}
"""What libpq is told, so that a server that was cut off is given up within seconds; by itself it waits for hours."""
_CLOCK: Final = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "extract(epoch from clock_timestamp())",
}
"""Seconds since 1970 by the database's own clock: those of several machines differ."""


def database_url(text: str | None, home: Path) -> sa.URL:
    """Where jobs are kept; a file under `home` where nothing is said. Shows no password when printed.

    Raises:
        InvalidInput: It is neither Postgres nor SQLite. The message does not repeat what was given.
    """
    if text is None:
        return sa.URL.create("sqlite", database=str(home.resolve() / "jobs.sqlite"))
    remedy = "Write postgresql://user:password@host:5432/name, or sqlite:///path."
    try:
        url = sa.make_url(text)
    except (ArgumentError, ValueError):
        raise InvalidInput("is not the address of a database.", field="SMALTI_JOBS_DATABASE", remedy=remedy) from None
    if url.drivername == "sqlite" and url.database:
        return url
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg", query={**_PATIENCE, **url.query})
    raise InvalidInput("is neither Postgres nor SQLite.", field="SMALTI_JOBS_DATABASE", remedy=remedy)


def shown(url: sa.URL) -> str:
    """An address without its password, which may stand in its query as well."""
    return url.set(query={}).render_as_string(hide_password=True)


@contextmanager
def reaching(url: sa.URL) -> Iterator[None]:
    """Say that the database cannot be reached, and why, without its password.

    Raises:
        Unavailable: It cannot.
    """
    try:
        yield
    except SQLAlchemyError as error:
        cause = str(error.orig if isinstance(error, DBAPIError) else error).partition("\n")[0]
        if url.password:
            cause = cause.replace(str(url.password), "***")
        raise Unavailable(
            f"the jobs database {shown(url)} cannot be used: {cause}.",
            remedy="Tiles, search and uploads go on without it.",
        ) from None


class Roster:
    """The workers that sign in one jobs database.

    Args:
        url: As `database_url` makes it.
    """

    def __init__(self, url: sa.URL) -> None:
        self.url = url
        self.schema = None if url.get_backend_name() == "sqlite" else SCHEMA
        self._now: Any = sa.literal_column(_CLOCK[url.get_backend_name()], sa.Double)
        self._table = sa.Table(
            "smalti_workers", sa.MetaData(schema=self.schema),
            sa.Column("name", sa.String, primary_key=True),
            sa.Column("instance", sa.String, nullable=False),
            sa.Column("seen", sa.Double, nullable=False),
        )  # fmt: skip
        self._there = False

    @cached_property
    def engine(self) -> sa.Engine:
        """Connections to the database."""
        return sa.create_engine(self.url, pool_size=2, max_overflow=4, pool_timeout=CONNECT_S, pool_pre_ping=True)

    def is_there(self) -> bool:
        """Whether the database has been set up; looking does not make it.

        Raises:
            Unavailable: It cannot be reached.
        """
        if not self._there:
            file = self.url.database if self.schema is None else None
            if file and not Path(file).exists():
                return False
            with reaching(self.url):
                self._there = sa.inspect(self.engine).has_table("smalti_workers", schema=self.schema)
        return self._there

    def set_up(self) -> None:
        """Make the table beside the tables of jobs, which are there already."""
        with reaching(self.url):
            try:
                with self.engine.begin() as connection:
                    if self.schema is None:  # so that readers do not wait for writers; stays with the file
                        connection.execute(sa.text("PRAGMA journal_mode=WAL"))
                    self._table.create(connection, checkfirst=True)
            except DBAPIError:  # maybe because another process made it at the same moment
                if not self.is_there():
                    raise

    def sign(self, name: str, instance: str, *, first: bool = False) -> bool:
        """Sign as alive; False if another process has taken the name since.

        Args:
            name: The worker's stable name.
            instance: Which process it is.
            first: Take the name, whoever held it.
        """
        table = self._table
        mine = sa.true() if first else table.c.instance == instance
        with reaching(self.url), self.engine.begin() as connection:
            signed: Any = connection.execute(
                sa.update(table).where(table.c.name == name, mine).values(instance=instance, seen=self._now)
            )
            if signed.rowcount:
                return True
            if connection.execute(sa.select(table.c.name).where(table.c.name == name)).first():
                return False
            connection.execute(sa.insert(table).values(name=name, instance=instance, seen=self._now))
            return True

    def leave(self, name: str, instance: str) -> None:
        """Sign off: what the worker had in hand is taken over at once."""
        table = self._table
        with reaching(self.url), self.engine.begin() as connection:
            connection.execute(sa.delete(table).where(table.c.name == name, table.c.instance == instance))

    def forget(self, older_than: float) -> None:
        """Strike out workers that have not signed for so many seconds: a container leaves its host's name for good."""
        table = self._table
        with reaching(self.url), self.engine.begin() as connection:
            connection.execute(sa.delete(table).where(table.c.seen < self._now - older_than))

    def seen(self, within: float) -> tuple[str, ...]:
        """Names of the workers that signed within so many seconds; none where there is no database yet."""
        if not self.is_there():
            return ()
        table = self._table
        with reaching(self.url), self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(table.c.name).where(table.c.seen > self._now - within).order_by(table.c.name)
            )
            return tuple(row[0] for row in rows)

    def alive(self, within: float) -> Any:
        """A query for the processes that signed within so many seconds."""
        return sa.select(self._table.c.instance).where(self._table.c.seen > self._now - within)

    def close(self) -> None:
        """Let go of connections."""
        self.engine.dispose()
