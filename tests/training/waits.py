"""What a GPU would be waited for: operations whose result Python, or the next operation's shape, depends on."""

from typing import Any, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ATEN = torch.ops.aten
READ = {ATEN._local_scalar_dense, ATEN.nonzero, ATEN.masked_select, ATEN.equal}
INDEXED = {ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_}


class Waits(TorchDispatchMode):
    """Records them while it is entered; on a CPU, where nothing has to be waited for, the same operations are called."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        operation = func.overloadpacket
        is_mask = operation in INDEXED and any(each is not None and each.dtype == torch.bool for each in args[1])
        if operation in READ or is_mask:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))
