"""Ctrl-C is obeyed, also where it falls into C code that loses it."""

import signal
import threading
from collections.abc import Mapping
from contextlib import suppress

import pytest
from pydantic import TypeAdapter

from verl_mars.errors import errors_printed
from verl_mars.interrupts import interrupts_noted, obey_interrupt


def interrupt():
    signal.raise_signal(signal.SIGINT)


class AnswersWithAnInterrupt:
    """pydantic's core asks this whether it is a mapping, and takes the interrupt for a no."""

    @property
    def __class__(self):
        interrupt()
        return type(self)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_this_is_for_pydantic_loses_an_interrupt(interrupts):
    with pytest.raises(KeyboardInterrupt), interrupts_noted():
        with pytest.raises(ValueError, match="valid dict"):
            TypeAdapter(Mapping[str, int]).validate_python(AnswersWithAnInterrupt())


def test_a_lost_interrupt_is_obeyed_where_a_loop_asks(interrupts):
    rows = []
    with pytest.raises(KeyboardInterrupt), interrupts_noted():
        for row in range(9):
            obey_interrupt()
            rows.append(row)
            if row == 3:
                with suppress(KeyboardInterrupt):
                    interrupt()
    assert rows == [0, 1, 2, 3]


def test_a_command_that_was_interrupted_never_ends_as_if_it_had_been_done(interrupts, capsys):
    with pytest.raises(SystemExit) as exited, errors_printed(), suppress(KeyboardInterrupt):
        interrupt()
    assert exited.value.code == 130 and capsys.readouterr().err == "error: interrupted\n"


def test_the_next_command_knows_nothing_of_it(interrupts):
    with suppress(KeyboardInterrupt), interrupts_noted():
        interrupt()
    obey_interrupt()
    with interrupts_noted():
        obey_interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_interrupts_are_ignored_they_stay_ignored(interrupts):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_noted():
        interrupt()
        obey_interrupt()


def test_other_threads_have_no_interrupts(interrupts):
    faults = []

    def work():
        try:
            with interrupts_noted():
                obey_interrupt()
        except BaseException as fault:
            faults.append(fault)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert faults == []
