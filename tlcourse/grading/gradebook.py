"""The gradebook: one SQLite file with a grade for each student and exercise, and who changed what.

Every grade is one transaction, so what is finished survives whatever ends the process. Two graders
may write at once.
"""

from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sql
from sqlalchemy.dialects.sqlite import insert

# Raise with every change of the tables, and say in MIGRATIONS how a file of the version before
# becomes one of this.
VERSION = 1
MIGRATIONS: dict[int, tuple[str, ...]] = {}
WAIT_SECONDS = 60

_tables = sql.MetaData()
grades = sql.Table(
    "grades",
    _tables,
    sql.Column("student", sql.Text, primary_key=True),
    sql.Column("exercise", sql.Text, primary_key=True),
    sql.Column("framework", sql.Text, nullable=False),
    sql.Column("state", sql.Text, nullable=False),
    sql.Column("points", sql.Float, nullable=False),  # before anything is taken off for lateness
    sql.Column("possible", sql.Float, nullable=False),
    sql.Column("hours_late", sql.Float, nullable=False),
    sql.Column("share_kept", sql.Float, nullable=False),  # 1 in time, less by the late policy
    sql.Column("variant", sql.Integer, nullable=False),
    sql.Column("file", sql.Text, nullable=False),
    sql.Column("digest", sql.Text, nullable=False),  # of the notebook, its tasks and the variant
    sql.Column("graded_at", sql.Text, nullable=False),
    sql.Column("seconds", sql.Float, nullable=False),
    sql.Column("detail", sql.Text, nullable=False),  # judge.Grade as JSON
)
marks = sql.Table(  # what a person gave for an answer in words
    "marks",
    _tables,
    sql.Column("student", sql.Text, primary_key=True),
    sql.Column("exercise", sql.Text, primary_key=True),
    sql.Column("points", sql.Float, nullable=False),
    sql.Column("possible", sql.Float, nullable=False),
    sql.Column("comment", sql.Text, nullable=False),
)
audit = sql.Table(
    "audit",
    _tables,
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("at", sql.Text, nullable=False),
    sql.Column("by", sql.Text, nullable=False),
    sql.Column("what", sql.Text, nullable=False),
    sql.Column("student", sql.Text, nullable=False),
    sql.Column("exercise", sql.Text, nullable=False),
    sql.Column("before", sql.Text, nullable=False),
    sql.Column("after", sql.Text, nullable=False),
)


class GradebookError(RuntimeError):
    """The file cannot be used as a gradebook; the message says why."""


class Gradebook:
    """Open or create a gradebook. Raises GradebookError for a file that is none, or a newer one."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._engine = sql.create_engine(
            f"sqlite:///{self.path}", connect_args={"timeout": WAIT_SECONDS}
        )
        sql.event.listen(self._engine, "connect", _prepare)
        sql.event.listen(self._engine, "begin", lambda c: c.exec_driver_sql("BEGIN IMMEDIATE"))
        try:
            with self._write() as connection:
                self._upgrade(connection)
        except sql.exc.DBAPIError as error:
            why = f"{self.path} cannot be used as a gradebook: {error.orig}"
            raise GradebookError(why) from None

    def _write(self):
        return self._engine.begin()

    def _upgrade(self, connection) -> None:
        version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        if version > VERSION:
            raise GradebookError(
                f"{self.path} was written by a newer tlcourse: update it, or name another file"
            )
        for step in range(version or VERSION, VERSION):
            for statement in MIGRATIONS[step]:
                connection.exec_driver_sql(statement)
        _tables.create_all(connection)
        connection.exec_driver_sql(f"PRAGMA user_version = {VERSION}")

    def digest(self, student: str, exercise: str) -> str:
        """Return what was graded last, as the digest of it; nothing where there is no grade."""
        wanted = sql.select(grades.c.digest).where(*_key(grades, student, exercise))
        with self._engine.connect() as connection:
            return connection.execute(wanted).scalar() or ""

    def put(self, row: dict) -> None:
        """Write a grade, in place of the one before; `row` has a value for every column."""
        row = {"graded_at": _now(), **row, "detail": json.dumps(row["detail"])}
        self._put(grades, row, "graded", lambda r: f"{r.state}, {r.points:g} of {r.possible:g}")

    def mark(self, student: str, exercise: str, points: float, possible: float, comment="") -> None:
        """Write what a person gave for the answer in words."""
        row = dict(student=student, exercise=exercise, points=points, possible=possible)
        self._put(marks, row | {"comment": comment}, "marked", lambda r: f"{r.points:g}")

    def _put(self, table, row: dict, what: str, words) -> None:
        key = _key(table, row["student"], row["exercise"])
        statement = insert(table).values(row)
        statement = statement.on_conflict_do_update(table.primary_key, set_=row)
        with self._write() as connection:
            before = connection.execute(sql.select(table).where(*key)).first()
            connection.execute(statement)
            after = connection.execute(sql.select(table).where(*key)).one()
            connection.execute(
                audit.insert().values(
                    at=_now(),
                    by=getpass.getuser(),
                    what=what,
                    student=row["student"],
                    exercise=row["exercise"],
                    before=words(before) if before else "",
                    after=words(after),
                )
            )

    def rows(self, table=grades) -> list[dict]:
        """Return a table's rows in order, `detail` as data."""
        with self._engine.connect() as connection:
            found = connection.execute(sql.select(table).order_by(*table.primary_key.columns))
            rows = [dict(row._mapping) for row in found]
        for row in rows:
            if "detail" in row:
                row["detail"] = json.loads(row["detail"])
        return rows


def counted(row: dict, mark: dict | None) -> float:
    """Return the points that count: what the late policy leaves, plus a person's mark, if any."""
    return round(row["points"] * row["share_kept"] + (mark["points"] if mark else 0), 2)


def _prepare(connection, _) -> None:
    connection.isolation_level = None  # transactions begin where we say so, and at once


def _key(table, student: str, exercise: str):
    return table.c.student == student, table.c.exercise == exercise


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
