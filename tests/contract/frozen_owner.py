"""A program that owns a shard, begins a commit, and stops itself in the middle of it, like a process that is frozen.

Usage: URL WHERE, where WHERE is "between" (two statements) or "within" (the sending of rows). Says "stops" before it
does; awakened, it says what its commit ended with, and what it is told when it wants to go on as the owner.
"""

import os
import signal
import sys

from books_builders import effects, posting

from adapters.books import chain, database
from adapters.books.sql import SqlBooks
from runtime.errors import PenstockError
from runtime.ports import START

OWNER = "shard:0"


def stop() -> None:
    """Until somebody sends SIGCONT."""
    print("stops", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)


def copy_in_parts(statement: str, text: str, connection: object) -> None:
    """What the books do to send rows, with a stop after a half of them."""
    with connection.connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(text[: len(text) // 2])
        stop()
        copy.write(text[len(text) // 2 :])


def stopping(act: object) -> object:
    """The same, after a stop."""

    def stops(*arguments: object) -> None:
        stop()
        act(*arguments)

    return stops


if __name__ == "__main__":
    url, where = sys.argv[1:]
    books = SqlBooks(url)
    epoch = books.take_epoch(OWNER, "first").epoch
    if where == "within":
        database._copy = copy_in_parts
    else:
        chain.append_commit = stopping(chain.append_commit)
    for act in (
        lambda: books.commit(0, epoch, START, "1-0", 1, effects(posting(0))),
        lambda: books.take_epoch(OWNER, "first", again=True),
    ):
        try:
            act()
        except PenstockError as error:
            print(type(error).__name__, flush=True)
