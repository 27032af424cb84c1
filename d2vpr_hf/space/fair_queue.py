"""A queue in which visitors take turns: a visitor with many requests does not make the others wait for all of these."""

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

Item = TypeVar("Item")


class FairQueue(list[Item]):
    """A list whose items are in turns: each visitor's first item, then each visitor's second item, and so on.

    Args:
        owner: Returns the visitor of an item.
    """

    def __init__(self, owner: Callable[[Item], str]) -> None:
        super().__init__()
        self._owner = owner

    def append(self, item: Item) -> None:
        """Add an item behind those of the same turn."""
        owner = self._owner(item)
        turn = self.count_of(owner)
        turns: Counter[str] = Counter()
        for position, waiting in enumerate(self):
            name = self._owner(waiting)
            if turns[name] > turn:
                self.insert(position, item)
                return
            turns[name] += 1
        super().append(item)

    def count_of(self, owner: str) -> int:
        """Return the number of a visitor's items."""
        return sum(self._owner(item) == owner for item in self)
