"""How z is searched for."""

from typing import Literal, NamedTuple

Distance = Literal["l1", "mse"]


class Inversion(NamedTuple):
    """Gradient descent on z by Adam."""

    steps: int = 500
    rate: float = 0.02
    final_rate: float = 0.002  # reached by a cosine
    distance: Distance = "l1"
    w_residual: float = 0.9
    w_feature: float = 0.1
    patience: int = 0  # steps without progress after which a sample stands still; 0: all steps
