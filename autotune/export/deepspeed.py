"""DeepSpeed: the configuration that the probe handed to `deepspeed.initialize`, and DeepSpeed's launcher."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from autotune.errors import BadInput
from autotune.export.duties import STORED, deepspeed_duties, model_duties
from autotune.export.script import environment, launch_script
from autotune.export.target import Target, refuse
from trials.contract.capabilities import Refusal
from trials.contract.config import Precision
from trials.contract.deepspeed_config import deepspeed_config

REFUSALS = (
    Refusal({"sharding": ("fsdp", "hsdp")}, "DeepSpeed has no FSDP; use --to accelerate or --to torchrun"),
    Refusal({"precision": ("fp8",)}, "DeepSpeed has no float8 of PyTorch's; use --to torchrun"),
)

_AUTOCAST: Mapping[Precision, Mapping[str, Any]] = MappingProxyType(
    {
        "fp32": {},
        "fp16": {"torch_autocast": {"enabled": True, "dtype": "float16"}},
        "bf16": {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}},
        "bf16_pure": {},
    }
)
"""What PyTorch's DDP computes in, in DeepSpeed's words; stored stays what the training script made."""


def files(target: Target) -> dict[str, str]:
    """ds_config.json, launch.sh and, for several nodes, the hostfile that the launcher counts them in.

    Raises BadInput where DeepSpeed has no such training.
    """
    refuse(target, "deepspeed", REFUSALS)
    command = [
        "deepspeed",
        *_devices(target),
        '--master_addr="$MASTER_ADDR"',
        '--master_port="$MASTER_PORT"',
        "--no_local_rank",
    ]
    duties = [*deepspeed_duties(target), *model_duties(target.config)]
    if _is_ddp(target):
        duties = [*_ddp_duties(target), *duties]
    variables = {**environment(target), "DS_ACCELERATOR": target.device}
    texts = {
        "ds_config.json": json.dumps(ds_config(target), indent=2) + "\n",
        "launch.sh": launch_script(target, "DeepSpeed's launcher", command, duties, variables),
    }
    if target.num_nodes > 1:
        # With --no_ssh only their number and order count.
        nodes = [f"node-{rank} slots={target.gpus_per_node}\n" for rank in range(target.num_nodes)]
        texts["hostfile"] = "".join(nodes)
    return texts


def _ddp_duties(target: Target) -> list[str]:
    return [
        "leave more room than was measured: the probes ran PyTorch's DistributedDataParallel, and DeepSpeed "
        "reduces gradients after the backward, through copies of up to 2 GB, instead of during it "
        "(--to torchrun exports what was measured)",
        f"keep the weights in {STORED[target.config.precision]}",
    ]


def ds_config(target: Target) -> dict[str, Any]:
    """DeepSpeed's configuration: the probe's own under ZeRO; under DDP its nearest relative, stage 0.

    Raises BadInput where DeepSpeed does not have the optimizer or the precision.
    """
    config = target.config
    if _is_ddp(target):
        config = config.model_copy(update={"sharding": "zero1", "precision": "fp32"})
    try:
        chosen = deepspeed_config(config, target.constants, target.world_size, target.device)
    except KeyError as error:
        raise BadInput(f"DeepSpeed cannot be configured for {error.args[0]}; tune without it") from error
    if _is_ddp(target):
        chosen |= {"zero_optimization": {"stage": 0}, **_AUTOCAST[target.config.precision]}
    return chosen


def _devices(target: Target) -> list[str]:
    """Which devices of which nodes, in the launcher's words."""
    if target.num_nodes > 1:
        where = ['--hostfile="$here/hostfile"', "--no_ssh", '--node_rank="$NODE_RANK"']
        return [*where, f"--num_nodes={target.num_nodes}", f"--num_gpus={target.gpus_per_node}"]
    if target.device == "cuda":
        # Given a number, the launcher would take the first GPUs, whatever CUDA_VISIBLE_DEVICES says.
        first = ",".join(map(str, range(target.gpus_per_node)))
        return [f'--include="localhost:${{CUDA_VISIBLE_DEVICES:-{first}}}"']
    return ["--num_nodes=1", f"--num_gpus={target.gpus_per_node}"]


def _is_ddp(target: Target) -> bool:
    return target.config.sharding == "ddp"
