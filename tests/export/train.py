"""The training scripts of a user, one per tool: `train.py TOOL OUT [FILES]`; each rank writes what it saw."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(64, 16), nn.Linear(16, 64))


def batch(sequences: int = 2, tokens: int = 8) -> torch.Tensor:
    return torch.randint(64, (sequences, tokens))


def loss_of(output: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(output.float().flatten(0, 1), tokens.flatten())


def checksum(trained: nn.Module) -> float:
    return float(sum(p.detach().double().sum() for p in trained.parameters()))


def with_torchrun(files: list[str]) -> dict[str, Any]:
    """As the header of launch.sh asks for it."""
    facts = json.loads(Path(files[0]).read_text())
    config = facts["config"]
    torch.distributed.init_process_group("gloo")
    wrapped = nn.parallel.DistributedDataParallel(
        model(), gradient_as_bucket_view=facts["constants"]["ddp_gradient_as_bucket_view"]
    )
    optimizer = torch.optim.AdamW(wrapped.parameters(), fused=facts["constants"]["fused_optimizer"])
    before = checksum(wrapped)
    for _ in range(config["gradient_accumulation_steps"]):
        tokens = batch(config["micro_batch_size"], config["sequence_length"])
        with torch.autocast("cpu", torch.bfloat16):
            output = wrapped(tokens)
        torch.autograd.backward(loss_of(output, tokens))
    optimizer.step()
    return {
        "rank": torch.distributed.get_rank(),
        "world_size": torch.distributed.get_world_size(),
        "computes_in": str(output.dtype),
        "trained": checksum(wrapped) != before,
        "weights": checksum(wrapped),
    }


def with_accelerate(files: list[str]) -> dict[str, Any]:
    from accelerate import Accelerator

    accelerator = Accelerator()
    wrapped = model()
    optimizer = torch.optim.AdamW(wrapped.parameters(), fused=True)
    loader: Any = torch.utils.data.DataLoader(list(batch(32)), batch_size=2)
    wrapped, optimizer, loader = accelerator.prepare(wrapped, optimizer, loader)
    before, steps = checksum(wrapped), []
    for tokens in list(loader)[:4]:
        with accelerator.accumulate(wrapped):
            output = wrapped(tokens)
            accelerator.backward(loss_of(output, tokens))
            steps.append(accelerator.sync_gradients)
            optimizer.step()
            optimizer.zero_grad()
    with accelerator.autocast():
        inside = nn.Linear(4, 4)(torch.ones(1, 4)).dtype
    seen = {
        "rank": accelerator.process_index,
        "world_size": accelerator.num_processes,
        "type": accelerator.distributed_type.value,
        "mixed_precision": accelerator.mixed_precision,
        "accumulation": accelerator.gradient_accumulation_steps,
        "steps": steps,
        "computes_in": str(inside),
        "trained": checksum(wrapped) != before,
        "weights": checksum(wrapped),
    }
    accelerator.free_memory()
    return seen


def with_deepspeed(files: list[str]) -> dict[str, Any]:
    """One engine for each ds_config.json in `files`."""
    import deepspeed

    from trials.operators import load_operators

    load_operators(("ShareMemCommBuilder",))  # one process at a time, also beside other tests
    deepspeed.init_distributed()
    engines = []
    for file in files:
        fresh = model()
        engine, optimizer, *_ = deepspeed.initialize(
            model=fresh, model_parameters=fresh.parameters(), config=file
        )
        before = checksum(engine.module)
        for _ in range(engine.gradient_accumulation_steps()):
            tokens = batch(engine.train_micro_batch_size_per_gpu())
            output = engine(tokens)
            engine.backward(loss_of(output, tokens))
            engine.step()
        engines.append(
            {
                "stage": engine.zero_optimization_stage(),
                "optimizer": type(optimizer).__name__,
                "batch": engine.train_batch_size(),
                "accumulation": engine.gradient_accumulation_steps(),
                "steps": engine.global_steps,
                "stored_in": str(next(engine.module.parameters()).dtype),
                "computes_in": str(output.dtype),
                "trained": checksum(engine.module) != before,
                "weights": checksum(engine.module),
            }
        )
    return {
        "rank": deepspeed.comm.get_rank(),
        "world_size": deepspeed.comm.get_world_size(),
        "accelerator": deepspeed.accelerator.get_accelerator()._name,
        "engines": engines,
    }


TOOLS: dict[str, Callable[[list[str]], dict[str, Any]]] = {
    "torchrun": with_torchrun,
    "accelerate": with_accelerate,
    "deepspeed": with_deepspeed,
}

if __name__ == "__main__":
    tool, out, *files = sys.argv[1:]
    seen = {"threads": os.environ.get("OMP_NUM_THREADS"), **TOOLS[tool](files)}
    Path(out, f"rank-{seen['rank']}.json").write_text(json.dumps(seen))
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    # Gloo's threads abort a process now and then that ends by itself, after its work is done.
    sys.stdout.flush()
    os._exit(0)
