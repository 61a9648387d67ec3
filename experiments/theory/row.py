"""A truth: what theory says, what the market does, and whether the two agree."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

STANDARD_ERRORS = 4.0
"""A simulated value may lie this many standard errors off."""


class Row(NamedTuple):
    """One line of the table of ``adarena verify``.

    Attributes:
        truth: What is verified.
        setting: Numbers of bidders, reserve and the like.
        analytic: What theory says.
        simulated: What the market code gives.
        error: Standard error of ``simulated``; 0 where nothing is random.
        tolerance: Allowed beside the standard errors: rounding, the solver's grid.
    """

    truth: str
    setting: str
    analytic: float
    simulated: float
    error: float = 0.0
    tolerance: float = 1e-4

    @property
    def holds(self) -> bool:
        """Whether simulated and analytic value differ by no more than is allowed; false where either is not finite."""
        return bool(abs(self.simulated - self.analytic) <= STANDARD_ERRORS * self.error + self.tolerance)


def sample_row(truth: str, setting: str, analytic: float, samples: np.ndarray, tolerance: float = 0.0) -> Row:
    """A row whose simulated value is the mean of independent ``samples [S]``, with its standard error."""
    error = float(np.std(samples, ddof=1) / np.sqrt(len(samples)))
    return Row(truth, setting, analytic, float(np.mean(samples)), error, tolerance)
