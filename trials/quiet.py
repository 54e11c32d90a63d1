"""What libraries would say on stderr while they are imported, though nobody can do anything about it."""

import logging

TALKATIVE = ("torchao", "torch.utils._pytree")
"""torchao tells which of its compiled kernels are for other builds of torch (probes need none of them), and
torch that an enumeration of torchao's is registered twice."""


def quiet_libraries() -> None:
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
