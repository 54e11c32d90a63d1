"""Whether an engine trains as one fp32 process does: losses and gradient norms, step by step."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trials.contract.messages import ProbeRequest, ProbeResult
from trials.contract.outcome import Outcome

Run = Callable[[ProbeRequest], ProbeResult]
Reference = Callable[..., ProbeResult]
TRAINED = ("optimizer", "adaptation", "lora_rank", "base_weights", "quantization_aware")
"""Fields that decide what is trained, and not only how."""


def trained(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {field: fields[field] for field in TRAINED if field in fields}


@dataclass(frozen=True)
class Tolerance:
    """Largest relative difference from the fp32 process, over steps 1 to 3."""

    loss: float
    gradient_norm: float


# fp32 differs by the order of its sums alone: a few units in the last place (6e-8) of a mean; measured
# 2e-7 and 1e-7. The others differ by the rounding of what they compute in, 11 bits of fp16 (5e-4) and 8 bits
# of bf16 (4e-3), of which little is left in a mean over many; measured 1e-5 and 7e-5 for fp16, 2e-4 and
# 1.5e-3 for bf16. bf16_pure keeps weights and states in bf16; measured 1e-4 and 3e-3. float8 has 4 bits in
# each operand of a matmul (6e-2); measured 3e-4 and 7e-3.
TOLERANCES = {
    "fp32": Tolerance(loss=1e-6, gradient_norm=1e-6),
    "fp16": Tolerance(loss=4e-5, gradient_norm=3e-4),
    "bf16": Tolerance(loss=6e-4, gradient_norm=5e-3),
    "bf16_pure": Tolerance(loss=6e-4, gradient_norm=1.2e-2),
    "fp8": Tolerance(loss=1e-3, gradient_norm=2e-2),
}


def tolerance_of(fields: Mapping[str, Any]) -> Tolerance:
    """That of the precision, and wider where a rounding can decide more than a last digit.

    Fake quantisation takes a weight near a threshold to one side of it or the other, Lion the sign of a
    gradient that is nothing but rounding, and 8-bit states share scales in blocks that ZeRO cuts differently;
    measured 1.8e-3, 5e-5 and 2e-3 of the norm.
    """
    precision = fields.get("precision", "fp32")
    allowed = [TOLERANCES[precision]]
    if fields.get("quantization_aware", "none") != "none" and precision != "fp32":
        allowed.append(TOLERANCES["bf16"])
    if fields.get("optimizer") == "adamw_8bit":
        allowed.append(TOLERANCES["bf16"])
    if fields.get("optimizer") == "lion":
        allowed.append(TOLERANCES["fp16"])
    return Tolerance(max(one.loss for one in allowed), max(one.gradient_norm for one in allowed))


def difference(found: tuple[float, ...], expected: tuple[float, ...]) -> float:
    assert len(found) == len(expected) == 3
    return max(abs(f - e) / abs(e) for f, e in zip(found, expected, strict=True))


def agrees(result: ProbeResult, reference: ProbeResult, tolerance: Tolerance) -> bool:
    return (
        difference(result.losses, reference.losses) <= tolerance.loss
        and difference(result.gradient_norms, reference.gradient_norms) <= tolerance.gradient_norm
    )


def check(result: ProbeResult, reference: ProbeResult, fields: Mapping[str, Any]) -> None:
    assert result.outcome == Outcome.MEASURED, result
    loss = difference(result.losses, reference.losses)
    gradient_norm = difference(result.gradient_norms, reference.gradient_norms)
    tolerance = tolerance_of(fields)
    print(f"loss {loss:.1e} gradient norm {gradient_norm:.1e}")
    assert loss <= tolerance.loss
    assert gradient_norm <= tolerance.gradient_norm
