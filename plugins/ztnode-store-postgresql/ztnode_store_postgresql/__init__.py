"""A state store for ztnode: ``ztnode serve --store postgresql://ztnode@db.example/ztnode``, a table of a database.

Everything after ``postgresql:`` is libpq's (its URLs, PGPASSWORD, ~/.pgpass, sslmode), but for one parameter of ours,
``table`` (default ``ztnode_state``), which is made where it is missing. One statement a write: PostgreSQL's own
transactions make it atomic, and a lock on the fence's row keeps a write and the change of a lease apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from ztnode.hookspecs import LeaseLost, SharedStore, hookimpl

SCHEMES: Final = ("postgresql:", "postgres:")
DEFAULT_TABLE: Final = "ztnode_state"
TIMEOUT: Final = 1.5
"""Seconds for one statement."""
CONNECT_TIMEOUT: Final = 2
"""Seconds for a new connection: libpq knows whole ones, from two on."""
PAGE: Final = 2000
"""Rows of one answer when everything is read."""

Cursor = psycopg.AsyncCursor[tuple[Any, ...]]
T = TypeVar("T")


class PostgresqlStore:
    """See ``ztnode.hookspecs.SharedStore``.

    The connection is psycopg's asynchronous one, on a loop and thread of its own: a server that stands still is given
    up by the clock, which libpq's blocking calls cannot do.
    """

    def __init__(self, url: str) -> None:
        """Connect, and make the table where it is missing. Raises OSError, ValueError."""
        parts = urlsplit(url)
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
        table = sql.Identifier(*parameters.pop("table", DEFAULT_TABLE).split("."))
        self._conninfo = urlunsplit(parts._replace(query=urlencode(parameters)))
        try:
            psycopg.conninfo.conninfo_to_dict(self._conninfo)
        except psycopg.Error as error:
            raise ValueError(f"--store: not a URL that PostgreSQL knows: {_line(error)}") from None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ztnode-postgresql", daemon=True)
        self._thread.start()
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None
        self._addresses: list[tuple[str, int] | str] = []
        self._fence: tuple[str, bytes] | None = None
        create = "CREATE TABLE IF NOT EXISTS {t} (key text PRIMARY KEY, value bytea NOT NULL)"
        self._create = sql.SQL(create).format(t=table)
        self._select = sql.SQL("SELECT value FROM {t} WHERE key = %s").format(t=table)
        self._select_many = sql.SQL("SELECT key, value FROM {t} WHERE key = ANY(%s)").format(t=table)
        declare = "DECLARE everything NO SCROLL CURSOR FOR SELECT key, {what} FROM {t} WHERE starts_with(key, {prefix})"
        self._declare, self._declare_digests = (
            sql.SQL(declare).format(t=table, prefix=sql.Placeholder(), what=sql.SQL(what))
            for what in ("value", "sha256(value)")
        )
        self._fetch = sql.SQL("FETCH {n} FROM everything").format(n=sql.Literal(PAGE))
        upsert = "ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        self._upsert = sql.SQL(f"INSERT INTO {{t}} VALUES (%s, %s) {upsert}").format(t=table)
        self._remove = sql.SQL("DELETE FROM {t} WHERE key = %s").format(t=table)
        # FOR SHARE: who takes the lease waits for a write under way, and a write that comes after it finds no row.
        fence = "WITH fence AS MATERIALIZED (SELECT 1 FROM {t} WHERE key = %s AND value = %s FOR SHARE)"
        self._fenced_upsert = sql.SQL(
            f"{fence}, done AS (INSERT INTO {{t}} SELECT %s, %s FROM fence {upsert}) SELECT count(*) FROM fence"
        ).format(t=table)
        self._fenced_remove = sql.SQL(
            f"{fence}, done AS (DELETE FROM {{t}} WHERE key = %s AND EXISTS (SELECT FROM fence))"
            " SELECT count(*) FROM fence"
        ).format(t=table)
        self._insert_new = sql.SQL("INSERT INTO {t} VALUES (%s, %s) ON CONFLICT DO NOTHING").format(t=table)
        self._update_old = sql.SQL("UPDATE {t} SET value = %s WHERE key = %s AND value = %s").format(t=table)
        self._delete_old = sql.SQL("DELETE FROM {t} WHERE key = %s AND value = %s").format(t=table)
        try:
            self._run("the table", self._made)
        except BaseException:
            self.close()
            raise

    def read(self, key: str) -> bytes | None:
        """See SharedStore."""
        row = self._run(key, lambda cursor: self._one(cursor, self._select, key))
        return None if row is None else _bytes(key, row[0])

    def items(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """See SharedStore."""
        return self._everything(self._declare, prefix)

    def digests(self, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """See TellsChanges."""
        return self._everything(self._declare_digests, prefix)

    def read_many(self, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """See TellsChanges."""
        for key, value in self._run("values", lambda cursor: self._all(cursor, self._select_many, list(keys))):
            yield key, _bytes(key, value)

    def _everything(self, declare: sql.Composed, prefix: str) -> Iterator[tuple[str, bytes]]:
        # By a cursor of the server, so that the table is gone through once, and each part has its own time.
        rows: list[tuple[Any, ...]] = []
        self._run(prefix, lambda cursor: self._count(cursor, sql.SQL("BEGIN")))
        try:
            self._run(prefix, lambda cursor: self._count(cursor, declare, prefix))
            while part := self._run(prefix, lambda cursor: self._all(cursor, self._fetch)):
                rows += part
        finally:
            with contextlib.suppress(OSError):
                self._run(prefix, lambda cursor: self._count(cursor, sql.SQL("ROLLBACK")))
        for key, value in rows:
            yield key, _bytes(key, value)

    def write(self, key: str, value: bytes) -> None:
        """See SharedStore."""
        self._change(key, self._upsert, self._fenced_upsert, value)

    def delete(self, key: str) -> None:
        """See SharedStore."""
        self._change(key, self._remove, self._fenced_remove)

    def swap(self, key: str, old: bytes | None, new: bytes | None) -> bool:
        """See SharedStore."""
        if old is None:
            if new is None:
                return self.read(key) is None
            statement = self._insert_new
            arguments: tuple[str | bytes, ...] = key, new
        elif new is None:
            statement, arguments = self._delete_old, (key, old)
        else:
            statement, arguments = self._update_old, (new, key, old)
        return self._run(key, lambda cursor: self._count(cursor, statement, *arguments)) == 1

    def fence(self, key: str, value: bytes) -> None:
        """See SharedStore."""
        self._fence = key, value

    def endpoints(self) -> Sequence[tuple[str, int] | str]:
        """See SharedStore."""
        return self._addresses

    def close(self) -> None:
        """See SharedStore."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._disconnect(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _change(self, key: str, plain: sql.Composed, fenced: sql.Composed, *value: bytes) -> None:
        if self._fence is None:
            self._run(key, lambda cursor: self._count(cursor, plain, key, *value))
            return
        row = self._run(key, lambda cursor: self._one(cursor, fenced, *self._fence or (), key, *value))
        if row is None or not row[0]:
            raise LeaseLost(f"{key} was not written: another node holds the store")

    # Statements

    async def _made(self, cursor: Cursor) -> None:
        # Two that make it at the same moment: IF NOT EXISTS does not save the slower one from these.
        with contextlib.suppress(psycopg.errors.UniqueViolation, psycopg.errors.DuplicateTable):
            await cursor.execute(self._create)

    async def _one(self, cursor: Cursor, statement: sql.Composed, *arguments: Any) -> tuple[Any, ...] | None:
        await cursor.execute(statement, arguments)
        return await cursor.fetchone()

    async def _all(self, cursor: Cursor, statement: sql.Composed, *arguments: Any) -> list[tuple[Any, ...]]:
        await cursor.execute(statement, arguments)
        return await cursor.fetchall()

    async def _count(self, cursor: Cursor, statement: sql.SQL | sql.Composed, *arguments: Any) -> int:
        await cursor.execute(statement, arguments)
        return cursor.rowcount

    def _run(self, key: str, work: Callable[[Cursor], Awaitable[T]]) -> T:
        return asyncio.run_coroutine_threadsafe(self._answer(key, work), self._loop).result()

    async def _answer(self, key: str, work: Callable[[Cursor], Awaitable[T]]) -> T:
        late = False

        def give_up() -> None:
            # Not by cancelling: psycopg would then ask the same server, by another connection, to forget the question.
            nonlocal late
            late = True
            if self._connection is not None:
                with (
                    contextlib.suppress(OSError, psycopg.Error),
                    socket.socket(fileno=os.dup(self._connection.fileno())) as stuck,
                ):
                    stuck.shutdown(socket.SHUT_RDWR)

        timer: asyncio.TimerHandle | None = None
        try:
            if self._connection is None:
                self._connection = await self._connected()
            timer = self._loop.call_later(TIMEOUT, give_up)
            async with self._connection.cursor(binary=True) as cursor:
                return await work(cursor)
        except psycopg.errors.ConnectionTimeout:
            raise TimeoutError(f"PostgreSQL took no connection within {CONNECT_TIMEOUT} s") from None
        except psycopg.errors.CannotConnectNow as error:  # it starts or stops
            await self._disconnect()
            raise ConnectionRefusedError(_line(error)) from None
        except psycopg.Error as error:
            if late:
                await self._disconnect()
                raise TimeoutError(f"PostgreSQL did not answer within {TIMEOUT:g} s") from None
            # Without a code it is the connection that failed; class 57P is "operator intervention": it goes down.
            # 25006 is "read only": what was the primary is one no more, and another host of the URL may be it.
            if error.sqlstate is None or error.sqlstate.startswith(("08", "57P", "25006")):
                await self._disconnect()
                raise ConnectionError(_line(error)) from None
            raise OSError(f"{key}: PostgreSQL: {_line(error)}") from None
        finally:
            if timer is not None:
                timer.cancel()

    async def _connected(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        connection = await psycopg.AsyncConnection.connect(
            self._conninfo,
            autocommit=True,
            connect_timeout=CONNECT_TIMEOUT,
            application_name="ztnode",
            prepare_threshold=None,  # a pool between us and the server may hand the next statement to another session
        )
        self._addresses = _endpoints(connection.info)
        return connection

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _endpoints(info: psycopg.ConnectionInfo) -> list[tuple[str, int] | str]:
    """All hosts that the URL names, not only the one that was reached: another may serve others."""
    parameters = info.get_parameters()
    hosts = (parameters.get("hostaddr") or parameters.get("host") or info.host).split(",")
    ports = (parameters.get("port") or str(info.port)).split(",")
    found: list[tuple[str, int] | str] = []
    for index, host in enumerate(hosts):
        port = int(ports[index if len(ports) > 1 else 0] or 5432)
        found.append(f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host or info.host, port))
    return found


def _bytes(key: str, value: object) -> bytes:
    if not isinstance(value, bytes):
        raise OSError(f"{key}: the table holds {type(value).__name__} in place of bytes")
    return value


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


@hookimpl
def ztnode_state_store(url: str) -> SharedStore | None:
    """A store for ``postgresql://...``, otherwise not ours."""
    return PostgresqlStore(url) if url.startswith(SCHEMES) else None
