"""Batches made ahead in one background thread, so that the step does not wait for them.

A thread rather than Grain's where rows are cheap: `import grain` costs up to a second at every start, its iterators
leave their threads behind, and it does not say how long the consumer waited. Where rows are dear, what the thread calls
is Grain's (`loading.py`).
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any


class Prefetch:
    """Iterates over make_batch(start), make_batch(start + 1), .., up to `ahead` of them made before they are asked for.

    Ends before `stop` when it is given. What make_batch raises, `next` raises, there and ever after. `waited` is the
    seconds spent in `next` waiting for the thread. Use as a context manager or call `close`; a forgotten one is closed
    when it is collected or the interpreter exits.
    """

    def __init__(self, make_batch: Callable[[int], Any], start: int, *, stop: int | None = None, ahead: int = 2):
        self.waited = 0.0
        self._shared = _Shared(ahead)
        self._thread = threading.Thread(
            target=_work, args=(self._shared, make_batch, start, stop), name="lmjax-prefetch", daemon=True
        )
        self._close = weakref.finalize(self, _stop, self._shared, self._thread)
        self._thread.start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        shared = self._shared
        with shared.changed:
            if not shared.ready and shared.end is None:
                began = time.perf_counter()
                shared.changed.wait_for(lambda: shared.ready or shared.end is not None)
                self.waited += time.perf_counter() - began
            if shared.ready:
                shared.changed.notify_all()
                return shared.ready.popleft()
            raise shared.end

    def close(self) -> None:
        """Stops the thread and waits for it (10 s if make_batch hangs). `next` then raises StopIteration."""
        self._close()

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Shared:
    """What the thread and its Prefetch both see. The thread must not see the Prefetch, or that would never be freed."""

    def __init__(self, ahead: int):
        self.changed, self.ready, self.ahead = threading.Condition(), deque(), ahead
        self.end: BaseException | None = None  # what `next` raises when nothing is ready


def _work(shared: _Shared, make_batch: Callable[[int], Any], start: int, stop: int | None) -> None:
    end: BaseException = StopIteration()
    i = start
    try:
        while stop is None or i < stop:
            made = make_batch(i)
            with shared.changed:
                shared.changed.wait_for(lambda: len(shared.ready) < shared.ahead or shared.end is not None)
                if shared.end is not None:
                    return
                shared.ready.append(made)
                shared.changed.notify_all()
            i += 1
    except StopIteration as error:  # else the consumer would take it for the end
        end = RuntimeError("make_batch raised StopIteration")
        end.__cause__ = error
    except BaseException as error:  # it is not swallowed: the consumer raises it
        end = error
    with shared.changed:
        shared.end = shared.end or end
        shared.changed.notify_all()


def _stop(shared: _Shared, thread: threading.Thread) -> None:
    with shared.changed:
        shared.end = StopIteration()
        shared.ready.clear()
        shared.changed.notify_all()
    if thread is not threading.current_thread():
        thread.join(timeout=10)  # a daemon: a make_batch that hangs does not keep the interpreter from its end
