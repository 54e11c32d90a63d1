"""Keeps a zygote for its owner; nothing of it survives the owner, the zygote or a SIGTERM.

`python -P -m trials.supervisor cpu|cuda OWNER_PID FOLDER`, started in a session of its own. It passes
stdin and stdout on to the zygote and only watches. FOLDER is scratch space; it goes when the supervisor does.
"""

import os
import select
import shutil
import signal
import subprocess
import sys

from trials.processes import adopt_orphans, end_descendants


def main() -> int:
    device, owner, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    adopt_orphans()
    wake_out, wake_in = os.pipe()
    os.set_blocking(wake_in, False)
    signal.set_wakeup_fd(wake_in)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        watched = [os.pidfd_open(owner), wake_out]
        zygote = subprocess.Popen([sys.executable, "-P", "-m", "trials.zygote", device, str(os.getpid())])
        watched.append(os.pidfd_open(zygote.pid))
        select.select(watched, [], [])
        return zygote.poll() or 0
    except ProcessLookupError:  # the owner was gone before we looked
        return 0
    finally:
        end_descendants()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
