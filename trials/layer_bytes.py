"""What the layers of a model keep and need, measured: the real model, cut short, steps on fake tensors.

At every number of tokens a step passes through the same moments, and the bytes alive in each are linear in
the tokens and in the scores of attention. Three shapes therefore tell of each moment what it takes; those
that can be the largest of their phase are handed on.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch._subclasses import FakeTensorMode

from trials.contract.config import TrainingConfig
from trials.contract.measured import ATTENTIONS, CHECKPOINTINGS, PRECISIONS, Bytes, MeasuredLayers, Variant
from trials.contract.messages import ModelSpec, StepPhase
from trials.engines import Setting, build_engine
from trials.engines.torch_step import TorchStep
from trials.model import build
from trials.trace import as_with_real_tensors, follow, kind_of
from trials.trajectory import Level, Trajectory, without_attention_dropout

SEQUENCE_TOKENS = 4096
"""As long as may be: what depends on the length alone then passes for little that depends on both."""
MAX_LAYERS = 8
"""Measured at most: layers repeat sooner, or begin with a few of another kind."""
ALIKE = 0.002
"""A moment that is never more above another than this share of the peak is left out."""


LEFT_OUT = ("", StepPhase.EMBEDDING, StepPhase.STEP)
"""Phases that the forecast knows from the sizes alone."""


class CannotMeasure(Exception):
    """The model does not run as it would have to; the message is a sentence."""


@dataclass(frozen=True)
class _Plan:
    spec: ModelSpec
    num_layers: int
    """Built."""
    kinds: Sequence[int]
    """Of every layer of the whole model: the first one that is like it, among those built."""
    max_positions: int | None
    window: int | None

    @property
    def last_alike(self) -> Mapping[int, int]:
        """Kind → the last of those built: beside the first layer, the caller keeps the embeddings alive."""
        return {kind: index for index, kind in enumerate(self.kinds[: self.num_layers])}


def measure_layers(spec: ModelSpec, max_positions: int | None, window: int | None) -> MeasuredLayers:
    """Measure every precision, attention and checkpointing; raises whatever the model's code raises.

    CannotMeasure where it runs, but not alike at all numbers of tokens.
    """
    plan = _plan(spec, max_positions, window)
    variants, failed = [], {}
    for attention in _attentions(plan):
        try:
            variants += [
                _measure(plan, precision, attention, checkpointing)
                for precision, checkpointing in product(PRECISIONS, CHECKPOINTINGS)
            ]
        except Exception as error:  # transformers refuses an attention that a model does not have
            failed[attention] = error
    if not variants:
        raise next(iter(failed.values()))
    return MeasuredLayers(tuple(variants))


def _plan(spec: ModelSpec, max_positions: int | None, window: int | None) -> _Plan:
    with FakeTensorMode(allow_non_fake_inputs=True):
        layers = build(spec, TrainingConfig(attention="eager"), torch.bfloat16, seed=0).layers
    kinds = [kind_of(layer) for layer in layers]
    first = [kinds.index(kind) for kind in kinds]
    # One more than differ, so that few are measured as the first.
    num_layers = min(max(first) + 2, len(kinds), MAX_LAYERS)
    return _Plan(
        spec, num_layers, [index if index < num_layers else num_layers - 1 for index in first],
        max_positions, window,
    )  # fmt: skip


def _attentions(plan: _Plan) -> Sequence[str]:
    if plan.spec.hf_config is None:
        return ["sdpa"]
    positions = plan.max_positions or np.inf
    windowed = plan.window is not None and 2 * plan.window <= positions
    return [name for name in ATTENTIONS if windowed or name != "windowed"]


def _shapes(plan: _Plan, attention: str) -> list[tuple[int, int]]:
    """Sequences and their tokens, three times."""
    if attention == "windowed":
        assert plan.window is not None
        length = plan.window
    else:
        limits = (plan.max_positions, None if plan.window is None else plan.window - 1)
        length = min(SEQUENCE_TOKENS, *(max(limit // 2, 1) for limit in limits if limit is not None), 2**20)
    return [(2, length), (4, length), (2, 2 * length)]  # one alone takes other ways


def _measure(plan: _Plan, precision: str, attention: str, checkpointing: str) -> Variant:
    config = TrainingConfig.parse(
        {
            "precision": precision,
            "attention": "eager" if attention == "eager" else "sdpa",
            "activation_checkpointing": checkpointing,
            "optimizer": "sgd",  # without states
        }
    )
    trajectory = Trajectory()
    with ExitStack() as stack:
        stack.enter_context(as_with_real_tensors())
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        engine = build_engine(
            Setting(
                model=plan.spec,
                config=config,
                device_kind="cpu",
                device=torch.device("cpu"),
                world_size=1,
                seed=0,
                num_layers=plan.num_layers,
            )
        )
        assert isinstance(engine, TorchStep)
        without_attention_dropout(engine.model)
        follow(engine, trajectory)
        trajectory.follow_layers(engine)
        trajectory.count([*engine.model.parameters(), *engine.model.buffers()])
        at_rest = trajectory.bytes
        shapes = _shapes(plan, attention)
        steps = [_step(engine, trajectory, shape) for shape in shapes]
    moments = _by_phase(steps, shapes, at_rest)
    return _variant(plan, moments, precision, attention, checkpointing)


def _step(engine: TorchStep, trajectory: Trajectory, shape: tuple[int, int]) -> list[Level]:
    tokens = torch.zeros(shape, dtype=torch.int64)
    trajectory.begin()
    with trajectory.watching():
        engine.step([{"input_ids": tokens, "labels": tokens}])
    return [level for level in trajectory.levels if level.phase not in LEFT_OUT]


def _by_phase(
    steps: Sequence[Sequence[Level]], shapes: Sequence[tuple[int, int]], at_rest: int
) -> Mapping[str, list[Bytes]]:
    """Each phase's moments, in bytes beyond those of a model at rest."""
    if len({tuple(level.phase for level in step) for step in steps}) > 1:
        raise CannotMeasure("its operators depend on the number of tokens")
    linear = np.array([(1, batch * length, batch * length**2) for batch, length in shapes], dtype=float)
    levels = np.array([[level.bytes - at_rest for level in step] for step in steps], dtype=float)
    fixed, per_token, per_key = np.linalg.solve(linear, levels).round(6)
    moments: dict[str, list[Bytes]] = defaultdict(list)
    for level, *amounts in zip(steps[0], per_token, per_key, fixed, strict=True):
        token, key, whole = map(float, amounts)
        moments[level.phase].append(Bytes(token, key, whole - level.gradients, float(level.gradients)))
    return moments


def _variant(
    plan: _Plan, moments: Mapping[str, list[Bytes]], precision: str, attention: str, checkpointing: str
) -> Variant:
    kept = []
    for index in range(plan.num_layers):
        ended_at = moments.get(f"after {index}") or moments[f"in {index + 1}"]
        kept.append(_minus(ended_at[0], moments[f"in {index}"][0]))
    of_kinds = [kept[plan.last_alike[kind]] for kind in plan.kinds]
    up_to = [_sum(of_kinds[: index + 1]) for index in range(plan.num_layers)]
    recomputes = checkpointing != "none"
    last = plan.num_layers - 1
    forward, backward = [], []
    for index in sorted({plan.last_alike[kind] for kind in plan.kinds[-MAX_LAYERS:]}):
        tokens = _tokens_of(up_to[index])
        begun = moments[f"in {index}"][0]
        within = moments[f"in {index}"]
        forward += [_beyond(moment, tokens, begun.fixed + of_kinds[index].fixed, 0.0) for moment in within]
        back = moments[str(index)]
        backward += [_beyond(moment, tokens, back[0].fixed, back[0].gradients) for moment in back]
    tokens, ended = _tokens_of(up_to[last]), moments[f"after {last}"][0].fixed
    # Casts that checkpointed layers do not keep are gone when autocast has ended.
    begun_fixed = ended - recomputes * up_to[last].fixed
    return Variant(
        precision=precision,
        attention=attention,
        checkpointing=checkpointing,
        kept=_mean(of_kinds),
        forward=_largest(forward),
        head=_largest([_beyond(moment, tokens, ended, 0.0) for moment in moments[f"after {last}"]]),
        loss=_largest([_beyond(moment, tokens, begun_fixed, 0.0) for moment in moments[StepPhase.LOSS]]),
        backward=_largest(backward),
    )


def _amounts(item: Bytes) -> tuple[float, float, float, float]:
    return item.per_token, item.per_key, item.fixed, item.gradients


def _minus(left: Bytes, right: Bytes) -> Bytes:
    return Bytes(*(a - b for a, b in zip(_amounts(left), _amounts(right), strict=True)))


def _sum(items: Sequence[Bytes]) -> Bytes:
    return Bytes(*(sum(amounts) for amounts in zip(*map(_amounts, items), strict=True)))


def _mean(items: Sequence[Bytes]) -> Bytes:
    return Bytes(*(amount / len(items) for amount in _amounts(_sum(items))))


def _tokens_of(item: Bytes) -> Bytes:
    return replace(item, fixed=0.0, gradients=0.0)


def _beyond(moment: Bytes, tokens: Bytes, fixed: float, gradients: float) -> Bytes:
    more = _minus(moment, tokens)
    return replace(more, fixed=more.fixed - fixed, gradients=more.gradients - gradients)


def _largest(moments: Sequence[Bytes]) -> tuple[Bytes, ...]:
    """Those that are the largest at some number of tokens, whether or not gradients count."""
    table = np.array([_amounts(moment) for moment in moments])
    points: NDArray[np.float64] = np.array(
        [
            (tokens, tokens * length, 1.0, counts)
            for tokens in 2.0 ** np.arange(6, 22)
            for length in 2.0 ** np.arange(5, 19)
            if length <= tokens
            for counts in (0.0, 1.0)
        ]
    )
    levels = table @ points.T
    most = levels.max(axis=0)
    slack = ALIKE * np.abs(most)
    chosen: list[int] = []
    # The heaviest points first, so that one moment stands for as many of the others as it can.
    for point in range(points.shape[0] - 1, -1, -1):
        if not chosen or levels[chosen, point].max() < most[point] - slack[point]:
            chosen.append(int(levels[:, point].argmax()))
    return tuple(moments[index] for index in chosen)
