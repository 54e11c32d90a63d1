"""`StorageTracker`: the bytes that are alive while a program runs on fake tensors, and where they peak."""

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._op_schema import OpSchema
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

IN_PLACE_OTHERWISE = frozenset({torch.ops.aten.add.Tensor, torch.ops.aten.index_put.default})
"""What autograd's engine does in place unless a dispatch mode looks on: it adds up gradients (`accumulate` in
torch/csrc/autograd/input_buffer.cpp) and scatters them (`index_backward` in FunctionsManual.cpp). A view,
such as the gradient of nn.Linear's weight, shares its storage and is left alone."""


ON_THE_WAY = ("torch/_compile.py", "torch/_dynamo/eval_frame.py", "torch/distributed/tensor/_dispatch.py")
"""Files of torch whose frames lie between the one who calls an operator and a dispatch mode."""


class StorageTracker(TorchDispatchMode):
    """While active, counts every storage that an operator returns, from its birth to its end.

    torch's own `MemTracker` says which module a byte belongs to, but resets its peak with nothing public,
    and a peak per phase is what is wanted here. Storages that live already are told by `count`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has not annotated it
        self.bytes = 0
        """Alive now."""
        self.peaks: dict[str, int] = {}
        """Phase → the most that was alive in it."""
        self._sizes: dict[int, int] = {}
        self._phase = ""
        self._only_shapes = False
        """Whether DTensor runs an operator on tensors of whole size, to learn the shape of its result."""

    def count(self, tensors: Iterable[torch.Tensor]) -> None:
        for tensor in tensors:
            self._add(tensor)

    def enter(self, phase: str) -> None:
        """What follows belongs to `phase`, which may be entered again."""
        self._phase = phase
        self._look()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # which has it take itself apart into operators that are seen here
        result = func(*args, **(kwargs or {}))
        if func in IN_PLACE_OTHERWISE and _is_engine_of_autograd() and not args[0]._is_view():
            self._take_over(result, args[0])
        if self._only_shapes:
            return result
        for leaf in tree_iter(result):
            if isinstance(leaf, torch.Tensor):
                self._add(leaf)
        self._look()
        return result

    def _add(self, tensor: torch.Tensor) -> None:
        storage = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.bytes += storage.nbytes()
            weakref.finalize(storage, self._remove, key)

    def _take_over(self, result: torch.Tensor, first: torch.Tensor) -> None:
        """Count `result` in the place of the argument that it would have overwritten."""
        written, replaced = result.untyped_storage(), first.untyped_storage()
        if written.nbytes() == self._sizes.get(replaced._cdata):
            self._sizes[replaced._cdata] = 0
            self._sizes[written._cdata] = written.nbytes()
            weakref.finalize(written, self._remove, written._cdata)

    def _remove(self, key: int) -> None:
        self.bytes -= self._sizes.pop(key)

    def _resized(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes:
            self.bytes += storage.nbytes() - self._sizes[key]
            self._sizes[key] = storage.nbytes()
            self._look()

    def _look(self) -> None:
        self.peaks[self._phase] = max(self.peaks.get(self._phase, 0), self.bytes)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Active, resizes included, which no operator does: FSDP frees and fills its buffers so."""
        # Types whose methods a type checker lets nobody replace; torch has no hook for either.
        storage_type: Any = torch.UntypedStorage
        propagator_type: Any = ShardingPropagator
        resize = storage_type.resize_

        def resize_and_tell(storage: torch.UntypedStorage, size: int) -> None:
            resize(storage, size)
            self._resized(storage)

        propagate = propagator_type._propagate_tensor_meta_non_cached

        def propagate_untold(propagator: ShardingPropagator, schema: OpSchema) -> Any:
            self._only_shapes = True
            try:
                return propagate(propagator, schema)
            finally:
                self._only_shapes = False

        storage_type.resize_ = resize_and_tell
        propagator_type._propagate_tensor_meta_non_cached = propagate_untold
        try:
            with self:
                yield
        finally:
            storage_type.resize_ = resize
            propagator_type._propagate_tensor_meta_non_cached = propagate


def _is_engine_of_autograd() -> bool:
    """Whether autograd's engine called the operator: no Python of a backward, nor what it recomputes."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.endswith(ON_THE_WAY):
        frame = frame.f_back
    return frame is not None and frame.f_code is torch.autograd.graph._engine_run_backward.__code__
