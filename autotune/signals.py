"""What is done on SIGTERM stays ours while a library that takes it for itself is at work."""

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ACTION_BYTES = 512
"""More than a struct sigaction has, which begins with the address of the handler."""
ADDRESS_BYTES = ctypes.sizeof(ctypes.c_void_p)


@contextmanager
def sigterm_kept() -> Iterator[None]:
    """Have SIGTERM handled after it as before, whatever is done to it under it, in whichever thread.

    Ray handles it by the system's means, where Python does not see it: on joining a cluster so that the
    process aborts three seconds later, on leaving so that it ends at once. Its handler in Python, which calls
    `sys.exit`, raises KeyboardInterrupt here.
    """
    handler = signal.getsignal(signal.SIGTERM)
    actions = {number: _action(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        alarm = _action(signal.SIGALRM)
        if alarm.raw[:ADDRESS_BYTES] != actions[signal.SIGALRM].raw[:ADDRESS_BYTES]:
            signal.alarm(0)  # those three seconds have begun
        for number, action in actions.items():
            ctypes.CDLL(None).sigaction(number, action, None)


def _action(number: int) -> "ctypes.Array[ctypes.c_char]":
    action = ctypes.create_string_buffer(ACTION_BYTES)
    ctypes.CDLL(None).sigaction(number, None, action)
    return action
