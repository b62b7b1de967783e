"""Ctrl-C is obeyed, also where it reaches code that loses it.

Python raises an interrupt wherever the program is. C code that asks Python a question may drop it: pydantic's core asks
of each value whether it is a mapping, takes an interrupt at that moment for a "no", and the program continues, perhaps
with a wrong value. So an interrupt is noted, long loops raise it again, and an interrupted command never reports
success.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_noted = False
"""Of the whole process, as signals are."""


@contextmanager
def interrupts_noted() -> Iterator[None]:
    """For the length of one command, in the main thread: elsewhere, and where interrupts are ignored, nothing changes.

    Raises:
        KeyboardInterrupt: at the end, if an interrupt was lost.
    """
    global _noted
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _note)
    try:
        yield
        obey_interrupt()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _noted = False


def obey_interrupt() -> None:
    """Called by long loops, each time round.

    Raises:
        KeyboardInterrupt: an interrupt came and was lost.
    """
    if _noted:
        raise KeyboardInterrupt


def _note(signum: int, frame: FrameType | None) -> None:
    global _noted
    _noted = True
    signal.default_int_handler(signum, frame)
