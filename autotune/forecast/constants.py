"""The calibratable constants of the forecast: one table, each with its source.

Sources: *traced* on real models with fake tensors, *read* in code, papers or data sheets, *reasoned*
where there is neither, *fitted* to published rows that are then no test of it; a reasoned or fitted constant
is the first to be calibrated.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from autotune.hardware.sizes import GIB, MIB
from trials.contract.messages import DeviceKind


@dataclass(frozen=True)
class ForecastConstants:
    """Constants of a device kind; the defaults are those of CUDA."""

    # Memory outside tensors.
    context_bytes: float = 0.5e9 + 32 * MIB
    """CUDA context (0.3 to 0.5 GB) and the cuBLASLt workspace of sm90. Read; upper ends, since errors
    found were almost always too low. One H200 had 0.25 GB, and learns that with its first probe."""
    adapter_library_bytes: float = 0.0
    """Of libraries that are imported for LoRA, in the CPU memory of a rank."""
    first_communicator_bytes: float = 0.7e9
    """NCCL's buffers: 0.5 to 0.7 GB. Read; upper end."""
    further_communicator_bytes: float = 0.3e9
    """Of each further process group that communicates. Reasoned."""

    # Memory of tensors.
    loss_forward_bytes: float = 10
    """Per token and vocabulary entry: logits, their fp32 copy, log-softmax. Traced."""
    loss_forward_fp32_bytes: float = 8
    """The same where the logits are fp32 already. Traced."""
    loss_backward_bytes: float = 12
    """Log-softmax and two gradients, in fp32. Traced."""
    parallel_loss_more_bytes: float = 4
    """More of both with `loss_parallel` of DTensor: one fp32 intermediate more is alive. Traced."""
    whole_streams_alive: int = 3
    """Hidden states of all tokens in the compute format, while tensor-parallel ranks gather the gradient of
    what the feed-forward part puts out, or the embedding; one more while that of attention is. Traced."""
    key_gradients_alive: float = 1.5
    """Whole-sequence pairs of gradients of K and V that context parallelism holds at a time: the kernel's,
    and of one of them the parts that are sent. Traced on the last rank, which has most."""
    offloaded_layers_alive: int = 2
    """Layers whose activations are on the device under `offload=activations`. Reasoned."""
    deepspeed_max_live_parameters: float = 1e9
    """`stage3_max_live_parameters`: gathered parameters that ZeRO-3 keeps. Read: DeepSpeed's default."""
    reserved_over_allocated: float = 1.09
    """Allocator's holdings over tensors, outside FSDP: 1.03 to 1.09 in Megatron-LM (read), the mean of 14
    configurations on one H200, which had 1.01 to 1.21 (benchmarks/results/forecast_against_gpu.json)."""

    # Compute.
    matmul_efficiency: float = 0.57
    """Share of the dense 16-bit peak that large matmuls sustain at the clocks of a whole step: what
    Megatron-LM's MFU of 0.41 to 0.48 on H100 leaves for them. Isolated ones reach 0.65 to 0.8. Reasoned."""
    fp32_efficiency: float = 0.57
    """The same of the fp32 peak. Reasoned."""
    fp8_efficiency: float = 0.43
    """The same of the float8 peak, with the casts and scales of dynamic scaling. Reasoned from the bf16 one:
    half again as fast, not twice."""
    attention_efficiency: float = 0.25
    """The same for fused attention, forward and backward: FlashAttention-2 reaches 0.35 on H100 in isolated
    forwards (FlashAttention-3's paper), less in backwards and at a step's clocks. Reasoned."""
    shared_attention_efficiency: float = 0.8
    """What is left of it where ranks share a sequence, and attend to its pieces one after the other. Fitted
    to torchtitan's rings of 2, 4 and 8 ranks, which have 1.0 to 0.65; probes gather all keys first, which has
    not been measured on several GPUs."""
    memory_efficiency: float = 0.85
    """Share of the memory bandwidth that elementwise kernels reach: 0.9 to 0.75 (Calculon). Read."""
    elementwise_passes: float = 3.0
    """Times that each saved byte crosses the memory in an uncompiled forward: a Llama layer's norms, rotary
    embedding and gate move 590 kB a token for the 200 kB they save, at the sizes of 8B. Read: HF Llama; the
    backward takes twice as many."""
    score_traffic_bytes: float = 18
    """Per score of eager attention, in an uncompiled forward, beyond those passes: scaling, mask and casts.
    The backward moves twice as much. Measured on one H200: 20 to 35."""
    adapter_passes: float = 5
    """Times that a linear's output crosses the memory in the forward of the LoRA adapter beside it, which is
    scaled and added; its input does once, and three times more where it is cast. Read: peft."""
    compiled_elementwise_passes: float = 1.2
    """The same through torch.compile, which fuses them. Reasoned."""
    loss_traffic_bytes: float = 40
    """Per token and vocabulary entry, forward and backward. Reasoned from those tensors."""
    kernels_per_layer: float = 40
    """Launched by one forward of an uncompiled layer; its backward launches twice as many. Read: HF Llama."""
    compiled_kernels_per_layer: float = 15
    """The same through torch.compile. Reasoned."""
    kernels_per_adapter: float = 6
    """More of each linear's forward under LoRA: the adapter's casts, matmuls, scale and sum. Read: peft."""
    kernels_per_cast_linear: float = 30
    """More of each linear's forward where its operands are scaled and cast by operators of their own (float8,
    quantisation-aware training) and nothing compiles them. Measured on one H200, with the launches below."""
    launch_s: float = 16e-6
    """Between the starts of two kernels, which the process cannot make shorter: steps of few tokens wait for
    it. Measured on one H200 in a virtual machine (benchmarks/results/forecast_against_gpu.json); faster
    processors need half of it."""
    kernel_latency_s: float = 5e-6
    """What a kernel costs besides its work: 2 µs make Calculon's efficiency of small matmuls on an A100
    (0.9 at 16 GFLOP, 0.6 at 1 GFLOP); the rest is what eager PyTorch adds. Reasoned."""

    # Communication.
    link_efficiency: float = 0.65
    """Share of the link's rate inside a node: NVLink (Calculon). Read."""
    link_latency_s: float = 10e-6
    """Per hop of a ring inside a node (Calculon). Read."""
    network_efficiency: float = 0.9
    """Share of the network's rate between nodes: InfiniBand (Calculon). Read."""
    network_latency_s: float = 20e-6
    """Per hop of a ring that crosses nodes (Calculon). Read."""
    hidden_share: float = 0.9
    """Share of a collective that can run behind compute; its first and last piece cannot. Reasoned."""
    pcie_efficiency: float = 0.8
    """Share of the PCIe rate that pinned copies reach. Reasoned."""
    host_usable_share: float = 0.9
    """Share of a node's CPU memory that offloading may take; the rest is the system's and the processes'.
    Reasoned."""
    host_adam_parameters_per_s: float = 2e9
    """Parameters that all cores of a node update in a second: 28 bytes each at about 60 GB/s. Reasoned."""


CONSTANTS: Mapping[DeviceKind, ForecastConstants] = MappingProxyType(
    {
        "cuda": ForecastConstants(),
        "cpu": replace(
            ForecastConstants(),
            # The interpreter with everything imported, its process group and its first operators: measured,
            # 400 to 440 MiB over the engines (benchmarks/forecast_against_probes.py).
            context_bytes=0.41 * GIB,
            # peft and bitsandbytes: measured as above, 7 to 50 MiB.
            adapter_library_bytes=26 * MIB,
            first_communicator_bytes=0.0,
            further_communicator_bytes=0.0,
            # Blocks below 1 MiB, which malloc keeps, and operators' scratch: measured as above.
            reserved_over_allocated=1.01,
            # Speed, measured: least squares of the relative errors of 72 probes of three models of 34M to 70M
            # parameters on one and two ranks (benchmarks/forecast_against_probes.py --seed 0).
            # AMX multiplies faster than a core brings it small matrices.
            matmul_efficiency=0.32,
            fp32_efficiency=0.75,
            attention_efficiency=0.6,
            memory_efficiency=0.6,
            # Fresh memory is mapped page by page.
            elementwise_passes=4.1,
            loss_traffic_bytes=85,
            # gloo copies through shared memory, on the cores that compute.
            link_efficiency=0.17,
            link_latency_s=50e-6,
            hidden_share=0.0,
            # Operators run when they are called, so none waits to be started; scores stay in a cache.
            launch_s=0.0,
            score_traffic_bytes=0.0,
        ),
    }
)
"""Device kind → its constants."""
