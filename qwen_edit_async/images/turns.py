"""Lets threads take turns at objects that several edits share: open files, and pictures that Pillow loads late.

Reading such an object moves its position, so two threads that read it at once would each get a part of it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any


class _Turn:
    """The lock of one object, and the number of threads that hold it or wait for it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0


_turns: dict[int, _Turn] = {}
"""The turns by the id of their object, which no other object can have while a thread uses it."""

_guard = threading.Lock()


@contextlib.contextmanager
def turn_at(image: Any) -> Iterator[None]:
    """Wait until no other thread of this process reads the object, or the file that a PIL image still has to load."""
    with _turn(image), _turn(getattr(image, "fp", None)):
        yield


@contextlib.contextmanager
def _turn(shared: object) -> Iterator[None]:
    if shared is None:
        yield
        return
    with _guard:
        turn = _turns.setdefault(id(shared), _Turn())
        turn.users += 1
    try:
        with turn.lock:
            yield
    finally:
        with _guard:
            turn.users -= 1
            if not turn.users:
                del _turns[id(shared)]
