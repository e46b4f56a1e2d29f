"""One PostgreSQL connection: requests out, answers in, and what its errors mean.

This is a layer below psycopg's cursors, on its `pq` module: a statement is prepared in the round trip of its first use, several travel as one
pipeline, and after a broken connection it is known how far things had come. It is also about twice as fast as a cursor, which for a call of 65 µs
on the server takes another 60 µs.
"""

from __future__ import annotations

import itertools
import select
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import pq

from wfe_fast.database.base import Params, Row

Request = tuple[str, Params]

BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
COMMIT = "COMMIT"

#: This server is no primary (any more).
READ_ONLY = "25006"

#: What a statement that was prepared before says when the server does not know it any more, or not so: it is prepared again then.
UNPREPARED = "26000"
_CHANGED = "0A000"

#: Names of prepared statements. No two stores of this process share one, since they may share the connections of one pool.
_numbers = itertools.count()

_OK = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY)
_BOOL, _INT8, _INT2, _INT4, _NUMERIC = 16, 20, 21, 23, 1700


@dataclass(slots=True)
class Answer:
    """What a statement returned: its rows, and how many it returned or changed."""

    rows: list[Row] = field(default_factory=list)
    count: int = 0


class ConnectionBroken(Exception):
    """The connection is gone. `sent` = the database may have executed what was asked, and committed it."""

    def __init__(self, cause: str, sent: bool) -> None:
        super().__init__(cause)
        self.sent = sent


class StatementFailed(Exception):
    """The database refused the statement at `index` of the requests; nothing of the transaction is stored."""

    def __init__(self, index: int, code: str, message: str, constraint: str, detail: str) -> None:
        super().__init__(message)
        self.index = index
        self.code = code
        self.message = message
        self.constraint = constraint
        self.detail = detail

    @property
    def unprepared(self) -> bool:
        """Whether all that is wrong is that the server has to prepare its statements again."""
        return self.code == UNPREPARED or (self.code == _CHANGED and "cached plan" in self.message)


class PostgresSession:
    """What we know of a connection that nobody else uses at the moment. It does not keep the connection alive.

    Args:
        connection: in autocommit mode.
        prepare: whether the server may keep prepared statements for this connection (not so behind PgBouncer's transaction pooling).
        isolate: whether the connection's transactions are not READ COMMITTED by themselves, as ours have to be.
    """

    def __init__(self, connection: psycopg.Connection[Any], prepare: bool, isolate: bool = False) -> None:
        #: The connection itself, while somebody has it.
        self.connection: psycopg.Connection[Any] | None = None
        #: Whether the connection's owner has it in another mode than we.
        self.restores_autocommit = False
        self._pg = connection.pgconn
        self._prepare = prepare
        self.isolate = isolate
        self._prepared: dict[str, bytes] = {}
        self._readers: dict[str, list[Callable[[bytes], Any]]] = {}
        self._poll = select.poll()
        self._poll.register(self._pg.socket, select.POLLIN)
        self._pipeline = False

    # -- what operations need ------------------------------------------------------------------------------------------------------

    def run(self, sql: str, params: Params = ()) -> int:
        return self.ask([(sql, params)])[0].count

    def run_many(self, sql: str, rows: Iterable[Params]) -> None:
        self.ask([(sql, row) for row in rows])

    def one(self, sql: str, params: Params = ()) -> Row | None:
        rows = self.ask([(sql, params)])[0].rows
        return rows[0] if rows else None

    def all(self, sql: str, params: Params = ()) -> list[Row]:
        return self.ask([(sql, params)])[0].rows

    # -- round trips ---------------------------------------------------------------------------------------------------------------

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """Send all requests together and return their answers: one round trip. Outside a transaction they are one.

        Raises:
            ConnectionBroken: see there.
            StatementFailed: one was refused.
        """
        if not requests:
            return []
        if self.isolate and requests[0][0] != BEGIN and not self.in_transaction():
            return self._ask_isolated(requests)
        self._check_alive()
        try:
            if len(requests) == 1 and (result := self._ask_alone(*requests[0])) is not None:
                results = [result]
            else:
                self._send_pipeline(requests)
                results = self._results_of_pipeline([sql for sql, _ in requests])
        except (psycopg.Error, OSError) as error:
            raise self._broken(error, sent=True) from error
        except StatementFailed as failed:
            if failed.unprepared:
                self._prepared.clear()
            raise
        except ConnectionBroken:
            raise
        except BaseException:
            # Interrupted in the middle: what comes next on this connection would be the answer to something else.
            self.close()
            raise
        return [self._answer(sql, result) for (sql, _), result in zip(requests, results, strict=True)]

    def _ask_isolated(self, requests: Sequence[Request]) -> list[Answer]:
        """`ask` in a transaction that says how it is isolated, still in one round trip."""
        try:
            return self.ask([(BEGIN, ()), *requests, (COMMIT, ())])[1:-1]
        except StatementFailed as failed:
            failed.index = min(max(0, failed.index - 1), len(requests) - 1)
            if self.in_transaction():
                self.ask([("ROLLBACK", ())])
            raise

    def script(self, text: str) -> None:
        """Execute several statements without parameters.

        Raises:
            ConnectionBroken, StatementFailed: as `ask`.
        """
        self._check_alive()
        try:
            self._pg.send_query(text.encode())
            self._results_of_one()
        except (psycopg.Error, OSError) as error:
            raise self._broken(error, sent=True) from error
        except (StatementFailed, ConnectionBroken):
            raise
        except BaseException:
            self.close()
            raise

    @property
    def usable(self) -> bool:
        """Whether the connection is there, as far as one knows without asking."""
        return bool(self._pg.status == pq.ConnStatus.OK)

    def in_transaction(self) -> bool:
        return self._pg.transaction_status in (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)

    def close(self) -> None:
        self._pg.finish()

    def _check_alive(self) -> None:
        """A server that went away has usually left a message: then nothing is sent, and the request is safe to repeat on another connection."""
        if self._pg.status == pq.ConnStatus.BAD:
            raise ConnectionBroken("the connection is closed", sent=False)
        if not self._poll.poll(0):
            return
        said: list[str] = []
        others = self._pg.notice_handler

        def hear(notice: pq.abc.PGresult) -> None:
            if _ends_connection(notice):
                said.append(_primary(notice))
            elif others is not None:
                others(notice)

        self._pg.notice_handler = hear
        try:
            self._pg.consume_input()
            self._pg.is_busy()  # hears what has arrived
            if not said and self._poll.poll(0):  # readable, and nothing to read: the end of the stream
                self._pg.consume_input()
        except psycopg.Error as error:
            raise self._broken(error, sent=False) from error
        finally:
            self._pg.notice_handler = others
        if said:
            raise self._broken(psycopg.OperationalError(said[-1]), sent=False)

    def _broken(self, error: Exception, sent: bool) -> ConnectionBroken:
        self.close()
        return ConnectionBroken(str(error).strip() or type(error).__name__, sent)

    def _ask_alone(self, sql: str, params: Params) -> pq.abc.PGresult | None:
        """One statement without a pipeline; None where it has to be prepared first.

        It waits inside of libpq, which took 24 µs where a wait in Python took 66. So an interrupt comes out when the server has answered, and a
        connection that the server ends in the middle might have been ended behind the commit.
        """
        values: Any = _texts(params)
        name = self._prepared.get(sql)
        if name is not None:
            result = self._pg.exec_prepared(name, values)
        elif not self._prepare:
            result = self._pg.exec_params(sql.encode(), values)
        else:
            return None
        if result.status not in _OK:
            raise self._failed(0, result, committing=True)
        return result

    def _send_pipeline(self, requests: Sequence[Request]) -> None:
        pg = self._pg
        pg.enter_pipeline_mode()
        self._pipeline = True
        self._skipped: set[int] = set()
        self._made: list[tuple[str, bytes]] = []
        number = 0
        names = dict(self._prepared)
        for sql, params in requests:
            values = _texts(params)
            if not self._prepare:
                pg.send_query_params(sql.encode(), values)
            else:
                name = names.get(sql)
                if name is None:
                    name = names[sql] = b"wfe_%d" % next(_numbers)
                    pg.send_prepare(name, sql.encode())
                    self._skipped.add(number)
                    self._made.append((sql, name))
                    number += 1
                pg.send_query_prepared(name, values)
            number += 1
        pg.pipeline_sync()

    def _results_of_one(self) -> list[pq.abc.PGresult]:
        results: list[pq.abc.PGresult] = []
        while (result := self._next()) is not None:
            results.append(result)
        # An error that comes behind the result is one of the commit.
        for result in results:
            if result.status not in _OK:
                raise self._failed(0, result, committing=result is not results[0])
        if self._pg.status == pq.ConnStatus.BAD:
            raise psycopg.OperationalError("the connection was closed")
        return results[-1:]

    def _results_of_pipeline(self, statements: list[str]) -> list[pq.abc.PGresult]:
        results: list[pq.abc.PGresult] = []
        failure: StatementFailed | None = None
        number = 0
        while True:
            result = self._next()
            if result is None:
                if self._pg.status == pq.ConnStatus.BAD:
                    raise psycopg.OperationalError("the connection was closed")
                continue
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                break
            if result.status == pq.ExecStatus.FATAL_ERROR and failure is None:
                index = min(len(results), len(statements) - 1)
                # Behind the last answer it is the commit that fails.
                committing = statements[index] == COMMIT or len(results) >= len(statements)
                failure = self._failed(index, result, committing)
            if number not in self._skipped:
                results.append(result)
            elif result.status == pq.ExecStatus.COMMAND_OK:
                sql, name = self._made.pop(0)
                self._prepared[sql] = name
            number += 1
        self._pg.exit_pipeline_mode()
        self._pipeline = False
        if failure is not None:
            raise failure
        return results

    def _next(self) -> pq.abc.PGresult | None:
        pg = self._pg
        while pg.flush():
            select.select([pg.socket], [pg.socket], [])
            pg.consume_input()
        while pg.is_busy():
            self._poll.poll()
            pg.consume_input()
        return pg.get_result()

    def _failed(self, index: int, result: pq.abc.PGresult, committing: bool) -> StatementFailed:
        def part(name: pq.DiagnosticField) -> str:
            return (result.error_field(name) or b"").decode(errors="replace")

        code = part(pq.DiagnosticField.SQLSTATE)
        message = _primary(result)
        if not code:
            raise psycopg.OperationalError(message or result.get_error_message() or "the connection was closed")
        detail = part(pq.DiagnosticField.MESSAGE_DETAIL)
        if _ends_connection(result):
            # The server ends the connection. What was under way it has rolled back, unless it was committing.
            self.close()
            raise ConnectionBroken(message, sent=committing)
        return StatementFailed(index, code, message, part(pq.DiagnosticField.CONSTRAINT_NAME), detail)

    def _answer(self, sql: str, result: pq.abc.PGresult) -> Answer:
        rows = result.ntuples
        if not rows:
            return Answer([], result.command_tuples or 0)
        readers = self._readers.get(sql)
        if readers is None:
            readers = self._readers[sql] = [_reader(result.ftype(column)) for column in range(result.nfields)]
        value = result.get_value
        if rows == 1 and len(readers) == 1:  # what most functions return
            text = value(0, 0)
            return Answer([(None if text is None else readers[0](text),)], 1)
        columns = list(enumerate(readers))
        found = [
            tuple(None if (text := value(row, column)) is None else read(text) for column, read in columns)
            for row in range(rows)
        ]
        return Answer(found, rows)


def _primary(result: pq.abc.PGresult) -> str:
    """The message of an error or a notice."""
    return (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")


def _ends_connection(result: pq.abc.PGresult) -> bool:
    """Whether an error or a notice is the last that the server says."""
    return result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) in (b"FATAL", b"PANIC")


#: How a parameter looks in the server's text format. What it means, the statement says by a cast or a function's signature, so that a
#: statement is prepared once and not once for each combination of types.
_TEXTS: dict[type, Callable[[Any], bytes | None]] = {
    type(None): lambda _: None,
    str: str.encode,
    int: b"%d".__mod__,
    bool: {True: b"t", False: b"f"}.__getitem__,
}


def _texts(params: Params) -> list[bytes | None]:
    """Parameters as they are sent: text, whole numbers, truth values, None."""
    return [_TEXTS[type(param)](param) for param in params]


def _reader(type: int) -> Callable[[bytes], Any]:
    """What makes a value of a column's text."""
    if type in (_INT2, _INT4, _INT8, _NUMERIC):
        return int
    if type == _BOOL:
        return b"t".__eq__
    return bytes.decode
