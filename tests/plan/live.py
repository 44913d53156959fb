"""What lives at the peak while code runs, by storages that are there: on `meta` tensors, so at any size."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def storages(values):
    """Return the storages of all tensors in a tree, with their identities."""
    found = [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
    return [(storage._cdata, storage) for storage in found]


class Live(TorchDispatchMode):
    """Counts the bytes of every storage that an operation makes, until it is freed."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        """Run the operation and count what it made: storages that neither it was given nor an earlier one made."""
        given = {key for key, _ in storages((arguments, options))}
        result = operation(*arguments, **(options or {}))
        for key, storage in storages(result):
            if key not in given | self.known:
                self.known.add(key)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._free, key, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _free(self, key, size):
        self.known.discard(key)
        self.now -= size
