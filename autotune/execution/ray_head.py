"""A local Ray cluster in a process of its own, which ends all of it when its driver ends, however that was.

`python -P -m autotune.execution.ray_head DRIVER_PID NUM_CPUS` prints the cluster's address and waits.
Ray's own agents go on for minutes after a driver that was killed; a child subreaper finds them.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys

import psutil
import ray

from autotune.errors import ExecutionUnavailable

START_TIMEOUT_S = 60.0
SUPERVISOR = "trials.supervisor"
SUPERVISOR_TIMEOUT_S = 5.0
OBJECT_STORE_BYTES = 100 * 2**20
"""Probes pass kilobytes."""
_PR_SET_CHILD_SUBREAPER = 36  # man 2 prctl


class RayHead:
    """The driver's end: start it, ask for its address, end it."""

    def __init__(self, num_cpus: int) -> None:
        """Raises ExecutionUnavailable when the cluster does not come up."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(os.getpid()), str(num_cpus)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        ready = select.select([self._process.stdout], [], [], START_TIMEOUT_S)[0]
        self.address = self._process.stdout.readline().decode().strip() if ready else ""
        if not self.address:
            self.close()
            assert self._process.stderr is not None
            last = self._process.stderr.read().decode(errors="replace").strip().splitlines()[-1:]
            raise ExecutionUnavailable(
                f"Ray cannot be started on this machine: {''.join(last) or 'it did not answer'}; "
                "use --executor local"
            )

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def main() -> None:
    driver, num_cpus = int(sys.argv[1]), int(sys.argv[2])
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        with contextlib.suppress(ProcessLookupError):  # the driver was gone before we looked
            ended = os.pidfd_open(driver)
            # Until Ray handles it in its own way, SIGTERM ends this process like any exception.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            context = ray.init(
                address="local",
                num_cpus=num_cpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
            )
            print(context.address_info["gcs_address"], flush=True)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            select.select([ended], [], [])
    finally:
        end_descendants()


def end_descendants() -> None:
    """Kill until there is none left: the killed leave orphans, which come to us.

    Supervisors first get the time to clear away what they put on the disk.
    """
    this = psutil.Process()
    supervisors = [process for process in this.children(recursive=True) if _is_supervisor(process)]
    for process in supervisors:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(supervisors, timeout=SUPERVISOR_TIMEOUT_S)
    while alive := [p for p in this.children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE]:
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=1.0)
    os._exit(0)  # past Ray's own way of leaving a cluster that is gone


def _is_supervisor(process: psutil.Process) -> bool:
    try:
        return SUPERVISOR in process.cmdline()
    except psutil.Error:  # gone
        return False


if __name__ == "__main__":
    main()
