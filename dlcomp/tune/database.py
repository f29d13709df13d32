"""The measurements of a directory: append-only lines that survive a kill at any byte.

A record is written by one ``write`` of one whole line to a file opened with ``O_APPEND``, under a lock
among writers. A torn tail is closed by a newline before the next record, so it costs nothing but itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from dlcomp.errors import UsageError
from dlcomp.target import Target
from dlcomp.tune.records import Record, parse_line, target_key

_FILE = "records.jsonl"


class Database:
    """The records of a directory.

    Parameters
    ----------
    path : str or path
        A directory, made when the first record is written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise UsageError("a database is a directory", where=str(path), hint="give a directory with -o")

    @staticmethod
    def open(path: str | os.PathLike[str]) -> Database:
        """A database that exists.

        Raises
        ------
        UsageError
            There is none at ``path``.
        """
        database = Database(path)
        if not database.file.exists():
            raise UsageError(
                "no tuning database here", where=str(path), hint="dlcomp tune MODEL -o DIR makes one"
            )
        return database

    @property
    def file(self) -> Path:
        """The file with the lines."""
        return self.path / _FILE

    def append(self, record: Record) -> None:
        """Write ``record``; once this returns, no death of this process loses it.

        Raises
        ------
        UsageError
            The file cannot be written.
        """
        line = record.to_line()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self._locked():
                handle = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
                try:
                    size = os.fstat(handle).st_size
                    if size and os.pread(handle, 1, size - 1) != b"\n":
                        line = b"\n" + line
                    if os.write(handle, line) != len(line):
                        raise OSError("only a part of a record could be written")
                finally:
                    os.close(handle)
        except OSError as error:
            raise UsageError(f"cannot write a record: {error}", where=str(self.file)) from error

    def records(self) -> list[Record]:
        """All whole records, oldest first; damaged lines are left out (:meth:`damaged` counts them)."""
        return [record for record in map(parse_line, self._lines()) if record is not None]

    def damaged(self) -> int:
        """Lines that are no records."""
        return sum(parse_line(line) is None for line in self._lines())

    def of_target(self, target: Target) -> list[Record]:
        """The records that were measured on ``target``; of any other there is never one among them."""
        key = target_key(target)
        return [record for record in self.records() if record.target == key]

    def merge(self, others: Iterable[Database]) -> int:
        """Append what ``others`` have and this one lacks, oldest first; returns how many."""
        have = {record.to_line() for record in self.records()}
        new: list[Record] = []
        for other in others:
            for record in other.records():
                if record.to_line() not in have:
                    have.add(record.to_line())
                    new.append(record)
        for record in sorted(new, key=lambda r: r.time):
            self.append(record)
        return len(new)

    def prune(self, keep: Callable[[Record], bool]) -> int:
        """Rewrite the file with the records that ``keep`` accepts; returns how many lines went.

        The new file replaces the old one in one step, so a kill leaves one or the other.
        """
        with self._locked():
            lines = self._lines()
            parsed = [parse_line(line) for line in lines]
            kept = [record for record in parsed if record is not None and keep(record)]
            temporary = self.file.with_suffix(".new")
            temporary.write_bytes(b"".join(record.to_line() for record in kept))
            os.replace(temporary, self.file)
        return len(lines) - len(kept)

    def _lines(self) -> list[bytes]:
        try:
            return [line for line in self.file.read_bytes().split(b"\n") if line.strip()]
        except FileNotFoundError:
            return []

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # A file of its own: pruning replaces the records' file, and with it any lock on that.
        handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def ranked(records: Sequence[Record]) -> list[Record]:
    """The good records of one workload and target, the one to use first.

    That is the last confirmed one: it beat, in turn in one process, the best before it. Times of
    different days are not compared with each other if that can be helped.
    """
    good = [record for record in records if record.status == "ok"]
    confirmed = sorted((r for r in good if r.confirmed), key=lambda r: -r.time)
    rest = sorted((r for r in good if not r.confirmed), key=lambda r: r.seconds)
    return confirmed + rest
