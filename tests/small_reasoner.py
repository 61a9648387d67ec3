"""A reasoning bidder, its market and a log, all of the smallest sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from adarena.agents.offline.data import Spec
from adarena.agents.offline.episodes import Episodes

SIZES: dict[str, Any] = {"advertisers": 4, "ticks": 8, "impressions": 8, "blocks": 8, "slots": 2, "categories": 2}
SMALL: dict[str, Any] = {
    "context": 3,
    "width": 8,
    "layers": 1,
    "heads": 1,
    "batch": 2,
    "chains": 1,
    "critic_hidden": (4,),
}


def made_up(spec: Spec, steps: int, count: int = 12) -> Episodes:
    """Episodes of noise with the right shapes."""
    draw = np.random.default_rng(0)
    terminated = np.zeros((count, steps), bool)
    terminated[:, -1] = True
    return Episodes(
        draw.uniform(0.0, 1.0, (count, steps + 1, spec.observations)).astype(np.float32),
        draw.uniform(-1.0, 1.0, (count, steps, 1)).astype(np.float32),
        draw.uniform(0.0, 1.0, (count, steps)).astype(np.float32),
        terminated,
        np.full((count, steps), np.nan, np.float32),
        np.zeros(count, np.int32),
        np.arange(count, dtype=np.int64),
    )
