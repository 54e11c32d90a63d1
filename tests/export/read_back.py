"""Read exported files as the tools themselves do, in a process of its own: `read_back.py TOOL < lines`.

Each line is a JSON list: folder, world size, the arguments that launch.sh handed to the launcher. Each
line out is what the tool made of them.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def by_deepspeed(folder: str, world_size: int, arguments: list[str]) -> dict[str, Any]:
    import torch.distributed as dist
    from deepspeed.launcher import runner
    from deepspeed.runtime.config import DeepSpeedConfig

    _pretend_world(world_size)
    config = DeepSpeedConfig(f"{folder}/ds_config.json")
    dist.destroy_process_group()
    args = runner.parse_args(arguments)
    hosts = runner.fetch_hostfile(args.hostfile) or {"localhost": 8}
    devices = runner.parse_inclusion_exclusion(hosts, args.include, args.exclude)
    devices = runner.apply_num_nodes_and_gpus(devices, args.num_nodes, args.num_gpus)
    offload = config.zero_config.offload_optimizer
    return {
        "devices": list(devices.values()),
        "node_rank": args.node_rank,
        "master": [args.master_addr, args.master_port],
        "script": [args.user_script, *args.user_args],
        "stage": int(config.zero_optimization_stage),
        "batch": [
            config.train_batch_size,
            config.train_micro_batch_size_per_gpu,
            config.gradient_accumulation_steps,
        ],
        "bf16": config.bfloat16_config.enabled,
        "bf16_states": config.bfloat16_config.bf16_optimizer_states,
        "fp16": config.float16_config.enabled,
        "autocast": str(config.torch_autocast_dtype) if config.torch_autocast_enabled else None,
        "offload": str(offload.device) if offload else None,
        "clip": config.gradient_clipping,
        "optimizer": [config.optimizer_name, config.optimizer_params],
        "buckets": [config.zero_config.reduce_bucket_size, config.zero_config.allgather_bucket_size],
    }


def by_accelerate(folder: str, world_size: int, arguments: list[str]) -> dict[str, Any]:
    from accelerate.commands import launch
    from accelerate.parallelism_config import ParallelismConfig
    from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
    from accelerate.utils import launch as environments

    arguments = arguments[arguments.index("launch") + 1 :]
    args, defaults, from_config = launch._validate_launch_command(
        launch.launch_command_parser().parse_args(arguments)
    )
    facts: dict[str, Any] = {
        "type": defaults.distributed_type.value,
        "processes": args.num_processes,
        "machines": [args.num_machines, args.machine_rank],
        "master": [args.main_process_ip, args.main_process_port],
        "script": [args.training_script, *args.training_script_args],
        "use_cpu": args.use_cpu,
    }
    before = dict(os.environ)
    try:
        if args.use_deepspeed:
            fields = [*defaults.deepspeed_config, *(["mixed_precision"] if from_config else [])]
            args.deepspeed_fields_from_accelerate_config = ",".join(fields)
            _, variables = environments.prepare_deepspeed_cmd_env(args)
            os.environ.update(variables)
            plugin = DeepSpeedPlugin()
            facts |= {
                "stage": plugin.zero_stage,
                "partitioned_init": plugin.zero3_init_flag,
                "config": {k: v for k, v in plugin.deepspeed_config.items() if k != "steps_per_print"},
            }
        elif args.use_fsdp:
            os.environ.update(environments.prepare_multi_gpu_env(args))
            sharded = FullyShardedDataParallelPlugin()
            facts |= {
                "version": sharded.fsdp_version,
                "reshard": sharded.reshard_after_forward,
                "wrap": [
                    getattr(sharded.auto_wrap_policy, "__name__", None),
                    sharded.transformer_cls_names_to_wrap,
                ],
                "checkpointing": sharded.activation_checkpointing,
                "offload": type(sharded.cpu_offload).__name__,
            }
            if args.use_parallelism_config:
                mesh = ParallelismConfig()
                facts["mesh"] = [mesh.dp_replicate_size, mesh.dp_shard_size]
        elif args.multi_gpu:
            os.environ.update(environments.prepare_multi_gpu_env(args))
        else:
            os.environ.update(environments.prepare_simple_launcher_cmd_env(args)[1])
        facts["mixed_precision"] = os.environ["ACCELERATE_MIXED_PRECISION"]
    finally:
        os.environ.clear()
        os.environ.update(before)
    return facts


def _pretend_world(world_size: int) -> None:
    """DeepSpeed checks batch sizes against the world, so there has to be one, if of a single process."""
    import deepspeed
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if os.environ["DS_ACCELERATOR"] == "cpu":
        from trials.operators import load_operators

        load_operators(("ShareMemCommBuilder",))  # one process at a time, also beside other tests
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    deepspeed.comm.comm.cdb = None
    deepspeed.init_distributed(dist_backend="fake", auto_mpi_discovery=False, dist_init_required=False)


TOOLS: dict[str, Callable[[str, int, list[str]], dict[str, Any]]] = {
    "deepspeed": by_deepspeed,
    "accelerate": by_accelerate,
}

if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the tools print
    for line in sys.stdin:
        folder, world_size, arguments = json.loads(line)
        try:
            answer = TOOLS[sys.argv[1]](folder, world_size, arguments)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer, default=str), file=answers, flush=True)
