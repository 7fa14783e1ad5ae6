"""The learner's record: what was run, answered and handed in, in one SQLite file.

The record is a list of events that only grows; whatever is shown is computed from it. It stands in
the user's data folder, or where TLCOURSE_PROGRESS says; "off" there keeps none.
"""

import json
import os
import sqlite3
import sys
import uuid
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

KINDS = ("lesson", "exercise", "question")
SCHEMA = 1  # raised with every change of the table
SECONDS_TO_WAIT = 10  # for another notebook that is writing
TABLE = """CREATE TABLE IF NOT EXISTS event (
    id TEXT PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, item TEXT NOT NULL,
    points REAL NOT NULL, possible REAL NOT NULL, detail TEXT NOT NULL) STRICT"""


@dataclass(frozen=True)
class Event:
    """One thing done: `points` of `possible`; `at` is UTC in ISO format, `detail` plain JSON."""

    kind: str
    item: str
    points: float
    possible: float
    detail: dict = field(default_factory=dict)
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}: choose one of {', '.join(KINDS)}")
        if not 0 <= self.points <= self.possible:
            raise ValueError(f"{self.item}: {self.points} points of {self.possible}")
        if not (isinstance(self.item, str) and isinstance(self.id, str)):
            raise ValueError(f"item and id of an event are text, not {self.item!r}, {self.id!r}")
        if not isinstance(self.detail, dict):
            raise ValueError(f"{self.item}: the detail of an event is a mapping")
        at = datetime.fromisoformat(self.at)
        if at.tzinfo is None or not 1970 < at.year < 9999:
            raise ValueError(f"{self.item}: {self.at} is no time with a time zone")


def path() -> Path | None:
    """Return where the record is kept, or None where it is switched off."""
    wanted = os.environ.get("TLCOURSE_PROGRESS", "")
    if wanted.casefold() == "off":
        return None
    if wanted:
        return Path(wanted).expanduser()
    import platformdirs

    return platformdirs.user_data_path("tlcourse", appauthor=False) / "progress.db"


def record(kind, item, points, possible, /, **detail) -> bool:
    """Add an event and return whether it is kept; where it cannot be, say why and go on."""
    event = Event(kind, item, points, possible, detail)
    if path() is None:
        return False
    try:
        return add([event]) == 1
    except (sqlite3.Error, OSError, RuntimeError) as error:
        print(f"{item} was not recorded: {path()}: {error}", file=sys.stderr)
        return False


def add(new: list[Event]) -> int:
    """Add those events that the record does not hold yet, all or none; return how many."""
    with _open() as record, record:
        before = record.total_changes
        record.executemany(
            "INSERT OR IGNORE INTO event VALUES (:id, :at, :kind, :item, :points, :possible, "
            ":detail)",
            [asdict(event) | {"detail": json.dumps(event.detail)} for event in new],
        )
        return record.total_changes - before


def events(kind: str | None = None) -> list[Event]:
    """Return the events of one kind, or all, oldest first."""
    if path() is None or not path().exists():
        return []
    with _open() as record:
        rows = record.execute(
            "SELECT kind, item, points, possible, detail, at, id FROM event "
            "WHERE ?1 IS NULL OR kind = ?1 ORDER BY at, id",
            (kind,),
        ).fetchall()
    return [Event(*row[:4], json.loads(row[4]), *row[5:]) for row in rows]


def export(to: Path) -> int:
    """Write the record to a JSON file and return the number of events."""
    listed = events()
    to.write_text(json.dumps([asdict(event) for event in listed], indent=1), encoding="utf-8")
    return len(listed)


def restore(source: Path) -> int:
    """Add what an exported file holds to the record; return how many events were new."""
    try:
        listed = [Event(**entry) for entry in json.loads(source.read_text(encoding="utf-8"))]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} is not an exported record: {error}") from None
    return add(listed) if listed else 0


def erase() -> None:
    """Delete the record, and what lies beside it under its name, such as questions left open."""
    if path() is not None:
        for file in [path(), *path().parent.glob(f"{path().name}-*")]:
            file.unlink(missing_ok=True)


def lessons(folder: Path = Path(".")) -> list[tuple[str, Event | None]]:
    """Return for each notebook of a folder its name and when it was last run to its end."""
    last = {event.item: event for event in events("lesson")}
    names = sorted({file.stem for file in folder.glob("[0-9][0-9]_*.*")})
    return [(name, last.get(name[:2])) for name in names]


@contextmanager
def _open():
    """A connection to the record; a damaged file is set aside, with one sentence."""
    place = path()
    if place is None:
        raise RuntimeError("no record is kept here: TLCOURSE_PROGRESS is off")
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        connection = _connect(place)
    except sqlite3.DatabaseError as error:
        # A lock or a full disk is no damage, and both are errors of this narrower kind.
        if isinstance(error, sqlite3.OperationalError):
            raise
        aside = place.with_name(f"{place.name}.damaged-{datetime.now(UTC):%Y%m%d%H%M%S}")
        place.rename(aside)
        print(f"The record was damaged. It is kept as {aside}; a new one begins.", file=sys.stderr)
        connection = _connect(place)
    with closing(connection):
        yield connection


def _connect(place: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(place, timeout=SECONDS_TO_WAIT)
    try:
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("some pages are damaged")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise RuntimeError(
                f"{place} was written by a newer tlcourse (version {version} of the record, this "
                f"one knows {SCHEMA}): update the course, or name another file in TLCOURSE_PROGRESS"
            )
        if version < SCHEMA:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(TABLE)
                connection.execute(f"PRAGMA user_version = {SCHEMA}")
    except BaseException:
        connection.close()
        raise
    return connection
