"""torchrun: the launcher's arguments, and everything a training script of one's own needs as JSON."""

import json

from autotune.export.deepspeed import ds_config
from autotune.export.duties import engine_duties, model_duties
from autotune.export.script import environment, launch_script, torchrun
from autotune.export.target import Target
from trials.contract.capabilities import ENGINE_OF_SHARDING


def files(target: Target) -> dict[str, str]:
    """training.json, launch.sh and, under ZeRO, the ds_config.json that the training script hands on.

    Raises BadInput where DeepSpeed does not have the optimizer or the precision.
    """
    config = target.config
    variables = environment(target)
    facts = {
        "job": target.job_name,
        "model": target.model_name,
        "evidence": target.evidence,
        "device": target.device,
        "world_size": target.world_size,
        "num_nodes": target.num_nodes,
        "gpus_per_node": target.gpus_per_node,
        "global_batch_size": config.global_batch_size(target.world_size),
        "layer_class": target.layer_class,
        "config": config.model_dump(),
        "constants": target.constants.model_dump(),
        "environment": variables,
    }
    duties = [*engine_duties(target), *model_duties(config)]
    texts = {
        "training.json": json.dumps(facts, indent=2) + "\n",
        "launch.sh": launch_script(target, "torchrun", torchrun(target), duties, variables),
    }
    if ENGINE_OF_SHARDING[config.sharding] == "zero":
        texts["ds_config.json"] = json.dumps(ds_config(target), indent=2) + "\n"
    return texts
