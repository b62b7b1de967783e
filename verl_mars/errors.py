"""Errors of users, and the one way in which every command prints them."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from verl_mars.interrupts import interrupts_noted

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


class UserError(ValueError):
    """A mistake that the user can correct: the message names what is wrong, where, what is allowed, what to do."""

    exit_code: ClassVar[int] = FAILED


class UsageError(UserError):
    """A command was called with an argument that it does not accept."""

    exit_code: ClassVar[int] = WRONG_USAGE


@contextmanager
def errors_printed() -> Iterator[None]:
    """Print errors as one line on stderr and exit: 1 for a fault, 2 for wrong usage, 130 for an interrupt.

    Our own ``ValueError`` messages are written for users, and an ``OSError`` or a missing package is theirs to mend, so
    none of them shows a traceback. Every other exception is a bug and keeps its traceback.
    """
    try:
        with interrupts_noted():
            yield
    except UserError as error:
        _exit(str(error), error.exit_code)
    except (ValueError, ModuleNotFoundError) as error:
        _exit(str(error), FAILED)
    except OSError as error:
        if error.errno == errno.EPIPE:  # `verl-mars ... | head`: click ends quietly
            raise
        _exit(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error), FAILED)
    except KeyboardInterrupt:
        _exit("interrupted", INTERRUPTED)


def _exit(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code) from None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with one row: ``code`` is a key of :data:`verl_mars.data.cures.CURES`, ``key`` a place in it."""

    code: str
    key: str
    message: str


class DataError(UserError):
    """A fault of the data, for the user to read: what is wrong, where, what is allowed."""


class SampleError(DataError):
    """One sample cannot become a row, or one row cannot be used; ``code`` is the reason it is counted under."""

    def __init__(self, code: str, message: str, key: str = "") -> None:
        super().__init__(f"{key}: {message}" if key else message)
        self.problem = Problem(code, key, message)

    @property
    def code(self) -> str:
        """The reason, a key of :data:`verl_mars.data.cures.CURES`."""
        return self.problem.code

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:  # pickled on the way back from worker processes
        return type(self), (self.problem.code, self.problem.message, self.problem.key)


class RowError(DataError):
    """A row of the training data cannot be scored; the message names the row, the key, and what is allowed."""
