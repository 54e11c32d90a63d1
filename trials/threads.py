"""Threads of a rank's operators, set after the fork: a pool from before it would not be there."""

import os

import threadpoolctl
import torch

from trials.contract.environment import thread_variables


def use_threads(threads: int) -> None:
    os.environ |= thread_variables(threads)
    torch.set_num_threads(threads)
    # Operators that DeepSpeed compiles may come with an OpenMP of their own.
    threadpoolctl.threadpool_limits(threads, user_api="openmp")
