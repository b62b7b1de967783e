"""Fixtures of several rooms."""

import signal

import pytest


@pytest.fixture
def interrupts():
    """SIGINT raises, as in a terminal; a shell starts its background jobs with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
