"""What a strategy sees of the federation: the nodes chosen for this round and no other."""

from collections.abc import Iterable

from flwr.serverapp import Grid

from strategies.grid_view import GridView

_PATIENCE = 4
"""Flower's sampling asks twice; where it wants more nodes than there are, it asks again every second."""


class ChosenNodes(GridView):
    """A grid that lists only the chosen nodes.

    Flower's strategies draw from all connected nodes with Python's global generator and wait without end for
    a minimum of them. Shown exactly the chosen ones, they take them all at once, and a held-out site cannot
    be drawn.
    """

    def __init__(self, grid: Grid, node_ids: Iterable[int]) -> None:
        super().__init__(grid)
        self._node_ids = list(node_ids)
        self._asked = 0

    def get_node_ids(self) -> Iterable[int]:
        """Return the chosen nodes. Raises ValueError once the strategy is seen to wait for more."""
        self._asked += 1
        if self._asked > _PATIENCE:
            raise ValueError(
                f"the strategy waits for more than the {len(self._node_ids)} sites of this round; "
                "set its min_train_nodes and min_available_nodes to 1"
            )
        return list(self._node_ids)
