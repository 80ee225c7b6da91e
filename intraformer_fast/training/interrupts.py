"""Ctrl-C between two steps of a training, never within one."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StepGuard:
    """As a context it makes Ctrl-C wait until the block is over: half an optimizer step could not be resumed.

    Attributes:
        whole: whether every block begun has come to its end, so that the state between blocks is sound.
    """

    def __init__(self) -> None:
        self.whole = True
        self._pending = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Guard from here to the end of this block, where Python's own handler is in charge of Ctrl-C."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __enter__(self) -> None:
        self.whole = False

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.whole = True
            if self._pending:
                raise KeyboardInterrupt

    def _handle(self, _signal: int, _frame: FrameType | None) -> None:
        if self.whole:
            raise KeyboardInterrupt
        self._pending = True
