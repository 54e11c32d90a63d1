"""SIGTERM stays ours, whatever a library does to it by the system's means."""

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from autotune.signals import ADDRESS_BYTES, _action, sigterm_kept

LIBC = ctypes.CDLL(None)
LIBC.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]


def handled_at(number: int) -> bytes:
    return _action(number).raw[:ADDRESS_BYTES]


def take_sigterm_and_sigalrm() -> None:
    """As Ray does, as far as Python sees nothing of it."""
    with sigterm_kept():
        LIBC.signal(signal.SIGTERM, None)
        LIBC.signal(signal.SIGALRM, None)


def exit_on_sigterm() -> None:
    """As Ray has Python do it."""
    with sigterm_kept():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        signal.raise_signal(signal.SIGTERM)


def in_a_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("run", [lambda work: work(), in_a_thread], ids=["main", "other"])
def test_what_handles_it_is_the_same_afterwards(run: Callable[[Callable[[], None]], None]) -> None:
    got: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: got.append(number))
    signal.signal(signal.SIGALRM, lambda number, frame: got.append(number))
    before = handled_at(signal.SIGTERM), handled_at(signal.SIGALRM)
    run(take_sigterm_and_sigalrm)
    assert (handled_at(signal.SIGTERM), handled_at(signal.SIGALRM)) == before
    signal.raise_signal(signal.SIGTERM)
    assert got == [signal.SIGTERM]


def test_an_abort_that_has_been_set_off_is_called_off() -> None:
    got: list[int] = []
    signal.signal(signal.SIGALRM, lambda number, frame: got.append(number))
    with sigterm_kept():
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        LIBC.signal(signal.SIGALRM, None)
    time.sleep(0.3)
    assert got == []


def test_a_timer_of_ones_own_goes_on() -> None:
    got: list[int] = []
    signal.signal(signal.SIGALRM, lambda number, frame: got.append(number))
    with sigterm_kept():
        signal.setitimer(signal.ITIMER_REAL, 0.2)
    time.sleep(0.3)
    assert got == [signal.SIGALRM]


def test_a_handler_that_exits_is_an_interrupt() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        exit_on_sigterm()
    assert signal.getsignal(signal.SIGTERM) == before
