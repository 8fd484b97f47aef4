"""A thread for one tracker, so that the training never waits for it, whatever the network or the disk does."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable

from food101_fast.progress import say, warn
from food101_fast.resources import first_line
from food101_fast.train.trackers.tracker import Ended, Tracker

# Calls that may wait. A tracker that is so far behind will not catch up, and the calls would fill the memory.
_MOST_WAITING = 10_000

Call = Callable[[Tracker], None]


class Worker:
    """Makes a tracker and calls its methods in a thread, in order.

    The first error ends it: one warning is printed, the tracker is closed, and all later calls do nothing.

    Args:
        name: of the tracker.
        start: makes the tracker.
    """

    def __init__(self, name: str, start: Callable[[], Tracker]) -> None:
        self._name = name
        self._start = start
        self._calls: queue.Queue[Call | None] = queue.Queue(_MOST_WAITING)
        self._lock = threading.Lock()
        self._lost = False
        # A daemon, so that a tracker that hangs does not keep the process alive.
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def do(self, call: Call | None) -> None:
        """Call this later; None ends the thread. Returns at once."""
        if self._lost:
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._lose(f"{_MOST_WAITING:,} calls wait for it")

    def close(self, ended: Ended) -> None:
        """Close the tracker later, after all calls before this one. Returns at once."""
        self.do(lambda tracker: tracker.close(ended))
        self.do(None)

    def wait(self, seconds: float) -> None:
        """Wait until the thread has ended, but not longer than this."""
        self._thread.join(max(seconds, 0.0))
        if self._thread.is_alive():
            self._lose("it did not finish in time")

    def _work(self) -> None:
        tracker = None
        try:
            tracker = self._start()
            if tracker.address is not None and not self._lost:
                say(f"{self._name}: {tracker.address}")
            while (call := self._calls.get()) is not None and not self._lost:
                call(tracker)
        except BaseException as error:  # trackers raise errors of many libraries, and may call sys.exit
            self._lose(first_line(error))
            with contextlib.suppress(BaseException):
                if tracker is not None:
                    tracker.close("failed")

    def _lose(self, reason: str) -> None:
        with self._lock:
            said, self._lost = self._lost, True
        if not said:
            warn(f"{self._name} failed ({reason}); the run goes on without it")
