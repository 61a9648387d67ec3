"""What the parts of a run of an experiment share."""

from __future__ import annotations

import dataclasses
from typing import Any

from rich.console import Console

from adarena.envs.core import Env
from adarena.experiments.store import RunFolder


@dataclasses.dataclass
class Work:
    """What one run works with; experiments add what is their own.

    Attributes:
        config: The configuration.
        folder: Where results go.
        console: Where to say what happens.
        resume: Whether to go on from checkpoints.
        env: The market.
        params: Its parameters.
    """

    config: Any
    folder: RunFolder
    console: Console
    resume: bool
    env: Env
    params: Any
