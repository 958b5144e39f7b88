"""What was used last, up to a limit."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values by key, of which those used last are kept: as many as together weigh at most ``most``,
    but always the one that was put last. Threads may share it.
    """

    def __init__(self, most: int) -> None:
        self._most, self._total = most, 0
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    @property
    def weight(self) -> int:
        """What all of them weigh."""
        return self._total

    def get(self, key: K) -> V | None:
        """The value of a key; None if it is not kept."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: K, value: V, weight: int = 1) -> None:
        """Keep a value of this weight, in place of the key's former one."""
        with self._lock:
            self._drop(key)
            self._values[key] = value, weight
            self._total += weight
            while self._total > self._most and len(self._values) > 1:
                self._drop(next(iter(self._values)))

    def drop(self, key: K) -> None:
        """Forget a key, if it is there."""
        with self._lock:
            self._drop(key)

    def _drop(self, key: K) -> None:
        if key in self._values:
            self._total -= self._values.pop(key)[1]
