"""The launch script: says what it runs and why, sets the environment, starts the launcher."""

import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from autotune.export.target import Target
from trials.contract.capabilities import ENGINE_OF_SHARDING
from trials.contract.environment import THREAD_VARIABLES, allocator_variables, thread_variables

LINE_LENGTH = 100
DEFAULT_PORT = 29500
"""Where the ranks meet; torch's own default."""

RENDEZVOUS = (
    '--node-rank="$NODE_RANK"',
    '--master-addr="$MASTER_ADDR"',
    '--master-port="$MASTER_PORT"',
)


def environment(target: Target) -> dict[str, str]:
    """The variables that the probes ran under and that decide memory or speed."""
    variables = allocator_variables(target.device, target.constants)
    if target.device == "cpu":  # elsewhere the number of threads is the machine's: only the script can ask
        variables |= thread_variables(1)
    if ENGINE_OF_SHARDING[target.config.sharding] == "zero":
        variables["DS_ACCELERATOR"] = target.device
    return variables


def torchrun(target: Target, *options: str) -> list[str]:
    """The words of a torchrun command that starts one process per rank of this node."""
    return [
        "torchrun",
        f"--nnodes={target.num_nodes}",
        f"--nproc-per-node={target.gpus_per_node}",
        *RENDEZVOUS,
        *options,
    ]


def launch_script(
    target: Target,
    launcher: str,
    command: Sequence[str],
    duties: Sequence[str],
    variables: Mapping[str, str],
) -> str:
    """The text of launch.sh.

    `command` is in shell words: they may use $here (the script's folder), $NODE_RANK, $MASTER_ADDR and
    $MASTER_PORT, and nothing of the user's may be among them. `duties` says, a sentence each, what the
    training script must do itself.
    """
    lines = [
        "#!/usr/bin/env bash",
        *_comment(_header(target, launcher, duties)),
        "",
        "set -euo pipefail",
        "",
        "if (($# == 0)); then",
        """    sed -n '2,/^$/s/^# \\{0,1\\}//p' "${BASH_SOURCE[0]}" >&2""",
        "    exit 2",
        "fi",
    ]
    if any("$here" in word for word in command):
        lines += ['here="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)"']
    lines += ["", *_rendezvous(target), "", "# What the probes ran under."]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    if target.device == "cuda":
        lines += _threads(target.gpus_per_node)
    lines += ["", "exec " + " \\\n    ".join([*command, '"$@"']), ""]
    return "\n".join(lines)


def describe(target: Target) -> list[str]:
    """The configuration in words, a sentence each."""
    config = target.config
    noun = "GPU" if target.device == "cuda" else "CPU rank"
    sequences = config.global_batch_size(target.world_size)
    tokens = config.tokens_per_step(target.world_size)
    others = ", ".join(
        f"{field} {value}"
        for field, value in config.model_dump(exclude=_SAID).items()
        if value != type(config).model_fields[field].default
    )
    return [
        f"{config.sharding}, {config.precision}, optimizer {config.optimizer}, on "
        f"{_count(target.num_nodes, 'node')} with {_count(target.gpus_per_node, noun)} each",
        f"micro-batches of {_count(config.micro_batch_size, 'sequence')} of {config.sequence_length} tokens, "
        f"{config.gradient_accumulation_steps} per optimizer step on each replica: "
        f"{_count(sequences, 'sequence')} ({tokens:,} tokens) per step over all ranks",
        f"activation checkpointing {config.activation_checkpointing}, offload {config.offload}"
        + (f", {others}" if others else ""),
    ]


_SAID = {
    "sharding", "precision", "optimizer", "micro_batch_size", "sequence_length",
    "gradient_accumulation_steps", "activation_checkpointing", "offload",
}  # fmt: skip


def _header(target: Target, launcher: str, duties: Sequence[str]) -> Iterator[str]:
    yield f"Trains {target.model_name} with {launcher}, as autotune's job {target.job_name} recommends."
    sections: dict[str, Sequence[str]] = {
        "Configuration": describe(target),
        "Evidence": [target.evidence],
        "Your training script must": duties,
        "Usage": _usage(target),
    }
    for title, items in sections.items():
        yield f"\n{title}:"
        for item in items:
            yield textwrap.fill(
                item, LINE_LENGTH - 2, initial_indent="  - ", subsequent_indent="    ",
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip


def _usage(target: Target) -> list[str]:
    several = (
        f"run it on each of the {target.num_nodes} nodes, with MASTER_ADDR set to the address of the first "
        f"and NODE_RANK to 0 on that one and up to {target.num_nodes - 1} on the others"
    )
    return [
        "./launch.sh train.py [arguments of train.py]",
        *([several] if target.num_nodes > 1 else []),
        f"MASTER_PORT is the port the ranks meet at, {DEFAULT_PORT} unless set",
    ]


def _comment(paragraphs: Iterator[str]) -> Iterator[str]:
    yield "#"
    for line in "\n".join(paragraphs).split("\n"):
        yield f"# {line}".rstrip()


def _rendezvous(target: Target) -> list[str]:
    port = f'MASTER_PORT="${{MASTER_PORT:-{DEFAULT_PORT}}}"'
    if target.num_nodes == 1:
        return ["NODE_RANK=0", "MASTER_ADDR=127.0.0.1", port]
    return [
        ': "${NODE_RANK:?is the number of this node, counted from 0}"',
        ': "${MASTER_ADDR:?is the address of the first node}"',
        port,
    ]


def _threads(ranks_per_node: int) -> list[str]:
    """What threads_per_rank says, on the machine that runs the script; nproc would heed OMP_NUM_THREADS."""
    return [
        'cores="$(env -u OMP_NUM_THREADS nproc)"',
        f"threads=$((cores > {ranks_per_node} ? cores / {ranks_per_node} : 1))",
        *(f'export {name}="$threads"' for name in THREAD_VARIABLES),
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
