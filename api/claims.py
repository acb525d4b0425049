"""Which blocks are in hand: a table beside the roster in which a worker notes a block while it makes it.

Jobs may overlap, and workers share one queue; a block that somebody has in hand is waited for, not made a second time.
A note counts for as long as whoever wrote it is on the roster, so one that died keeps nobody waiting for long.
"""

from __future__ import annotations

import threading
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from api.roster import Roster, reaching


class Claims:
    """The notes of one process. Safe to use from many threads.

    Args:
        roster: Who is alive.
        instance: Which process this is, as it signs the roster.
        lapse: Seconds without a sign of life after which a worker counts as dead.
    """

    def __init__(self, roster: Roster, instance: str, lapse: float) -> None:
        self._roster, self._instance, self._lapse = roster, instance, lapse
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._table = sa.Table(
            "smalti_claims", sa.MetaData(schema=roster.schema),
            sa.Column("what", sa.String, primary_key=True),
            sa.Column("instance", sa.String, nullable=False),
        )  # fmt: skip

    def set_up(self) -> None:
        """Make the table, unless it is there.

        Raises:
            Unavailable: The database cannot be reached. So do the other calls.
        """
        with reaching(self._roster.url):
            try:
                self._table.create(self._roster.engine, checkfirst=True)
            except DBAPIError:  # maybe because another worker made it at the same moment
                if not sa.inspect(self._roster.engine).has_table(self._table.name, schema=self._roster.schema):
                    raise

    def take(self, what: str) -> bool:
        """Note that this thread makes something; False while another thread, or another living worker, does."""
        with self._lock:
            if what in self._held:
                return False
            self._held.add(what)
        taken = False
        try:
            taken = self._insert(what)
        finally:
            if not taken:
                self._let_go(what)
        return taken

    def drop(self, what: str) -> None:
        """It is made, or will not be. Where the database cannot be reached, `tidy` sees to it."""
        try:
            with reaching(self._roster.url), self._roster.engine.begin() as connection:
                connection.execute(self._mine().where(self._table.c.what == what))
        finally:
            self._let_go(what)  # only now: the note of a thread that takes it next would be struck out

    def tidy(self) -> None:
        """Strike out what this process noted and has no longer in hand. Nothing is taken in hand meanwhile."""
        with self._lock, reaching(self._roster.url), self._roster.engine.begin() as connection:
            connection.execute(self._mine().where(self._table.c.what.not_in(tuple(self._held))))

    def _insert(self, what: str) -> bool:
        table = self._table
        with reaching(self._roster.url):
            try:
                with self._roster.engine.begin() as connection:
                    alive = self._roster.alive(self._lapse)
                    # Nobody else of this process has it, or it would be held: what is noted as ours was left behind.
                    left = sa.or_(table.c.instance == self._instance, table.c.instance.not_in(alive))
                    connection.execute(sa.delete(table).where(table.c.what == what, left))
                    if connection.execute(sa.select(table.c.what).where(table.c.what == what)).first():
                        return False
                    connection.execute(sa.insert(table).values(what=what, instance=self._instance))
            except IntegrityError:  # another worker was a moment faster
                return False
        return True

    def _mine(self) -> Any:
        return sa.delete(self._table).where(self._table.c.instance == self._instance)

    def _let_go(self, what: str) -> None:
        with self._lock:
            self._held.discard(what)
