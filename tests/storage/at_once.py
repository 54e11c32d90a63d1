"""Run a function in several processes at the same moment."""

import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any


def at_once(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call a module-level function with each tuple of arguments, each in a process of its own.

    Returns in the order of `calls` what each returned, or the exception it raised.
    """
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(len(calls))
    answers = spawn.SimpleQueue()
    processes = [
        spawn.Process(target=_child, args=(start, answers, number, function, arguments))
        for number, arguments in enumerate(calls)
    ]
    for process in processes:
        process.start()
    found = dict(answers.get() for _ in processes)
    for process in processes:
        process.join()
    return [found[number] for number in range(len(calls))]


def _child(start: Any, answers: Any, number: int, function: Callable[..., Any], arguments: Any) -> None:
    start.wait(60)
    try:
        answers.put((number, function(*arguments)))
    except Exception as error:
        # As it is pickled, an exception of a library may not be made again from its arguments.
        answers.put((number, RuntimeError(f"{type(error).__name__}: {error}")))
