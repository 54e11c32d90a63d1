"""Factories that give no model a probe could train."""

import os
import sys
import time
from pathlib import Path

import torch
from tiny import Decoder
from torch import Tensor, nn


def raises() -> nn.Module:
    raise RuntimeError("no such dataset")


def tells_its_threads() -> nn.Module:
    raise RuntimeError(
        f"{torch.get_num_threads()} of torch, {os.environ['OMP_NUM_THREADS']} of OMP_NUM_THREADS"
    )


def tells_what_it_keeps() -> nn.Module:
    before = _resident_mib()
    for _ in range(3):
        held = [torch.ones(size << 18) for size in (3, 29, 7, 17, 11, 23, 5, 2, 13, 19)]
        last = held[-1]
        del held
    raise RuntimeError(f"{_resident_mib() - before} MiB for one of {last.nbytes >> 20}")


def _resident_mib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def exits() -> nn.Module:
    sys.exit(3)


def hangs() -> nn.Module:
    while True:
        time.sleep(1)


def takes_too_much() -> nn.Module:
    decoder = Decoder()
    decoder.cache = torch.empty(2**60)
    return decoder


def no_module() -> dict[str, int]:
    return {"layers": 12}


def no_embedding() -> nn.Module:
    return nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(4, 4)])})


def no_layers() -> nn.Module:
    return nn.Sequential(nn.Embedding(96, 32), nn.Linear(32, 96))


class Logits(Decoder):
    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        return self.head(self.tokens(input_ids))


class Reader(Decoder):
    def forward(self, input_ids: Tensor, labels: Tensor) -> Tensor:
        loss = super().forward(input_ids, labels)
        return loss * 2 if loss.item() > 1 else loss


def reads_its_activations() -> nn.Module:
    return Reader()


not_callable = 7
