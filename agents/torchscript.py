"""TorchScript models that were trained for AuctionNet, as strategies and as policies.

Such a model maps AuctionNet's sixteen-entry state (`adarena.envs.adapters.auctionnet_state.STATE16`) to a number alpha; the
bid is alpha x prediction. Needs ``pip install 'adarena[sb3]'`` for torch, which is imported when a model is loaded::

    policy = torchscript_policy("iql_model.pth", "normalize_dict.pkl")
"""

from __future__ import annotations

import functools
import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from adarena.envs.adapters.auctionnet import BaseBiddingStrategy, StrategyError
from adarena.envs.adapters.auctionnet_host import Strategy, StrategyPolicy
from adarena.envs.adapters.auctionnet_state import STATE16, state16

Ranges = Mapping[int, tuple[float, float]]
"""Entry of the state to its least and largest value in training; (value - least) / (largest - least) goes into the model."""

_ALLOWED: Final = {
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
}


class TorchScriptStrategy(BaseBiddingStrategy):
    """Bids alpha x prediction, alpha from a model of the sixteen-entry state.

    Attributes:
        model: Maps a float32 tensor ``[16]`` to one number. Shared by strategies, so it must remember nothing.
        ranges: Entries to be normalised.
        ticks: Ticks of a whole episode.
        opening: As in `adarena.envs.adapters.auctionnet_state.state16`.
    """

    def __init__(
        self,
        model: Any,
        ranges: Ranges | None = None,
        *,
        ticks: int = 48,
        opening: bool = False,
        name: str = "TorchScript",
        **others: Any,
    ) -> None:
        super().__init__(name=name, **others)
        self.model, self.ranges, self.ticks, self.opening = model, dict(ranges or {}), ticks, opening

    def bidding(self, timeStepIndex: int, pValues: np.ndarray, pValueSigmas: np.ndarray, *histories: Any) -> np.ndarray:
        """``[n]`` bids; see `BaseBiddingStrategy.bidding`.

        Raises:
            StrategyError: The model gives something else than one finite number.
        """
        import torch

        money = self.remaining_budget, self.budget
        state = state16(timeStepIndex, pValues, *money, *histories, ticks=self.ticks, opening=self.opening)
        for entry, (low, high) in self.ranges.items():
            state[entry] = (state[entry] - low) / (high - low) if high > low else 0.0
        with torch.no_grad():
            given = self.model(torch.tensor(state, dtype=torch.float32))
        alpha = np.asarray(given, np.float64)
        if alpha.size != 1 or not np.all(np.isfinite(alpha)):
            raise StrategyError(f"{self.name}: the model must give one finite number, got {alpha.ravel()[:5]}")
        return alpha.item() * pValues


def torchscript_policy(
    path: str | Path,
    ranges: Ranges | str | Path | None = None,
    *,
    ticks: int = 48,
    opening: bool = False,
    name: str = "",
    rivals: Mapping[int, Strategy] | None = None,
) -> StrategyPolicy:
    """A saved model as a policy, to be evaluated beside ours.

    Args:
        path: What ``torch.jit.save`` wrote. TorchScript can run code: load only what you trust.
        ranges: Entries to be normalised, or AuctionNet's ``normalize_dict`` as a file: ``.json``, or ``.pkl`` (only plain
            numbers are taken from a pickle).
        ticks: Ticks of a whole episode, as in training.
        opening: As in `adarena.envs.adapters.auctionnet_state.state16`.
        name: Its name in tables; the file's by default.
        rivals: As in `StrategyPolicy`.

    Raises:
        ImportError: torch is not installed.
        FileNotFoundError: No such file.
        ValueError: The file holds no TorchScript model, or ``ranges`` names no entry of the state.
    """
    path = Path(path)
    model = load_torchscript(path)
    found = read_ranges(ranges) if isinstance(ranges, str | Path) else dict(ranges or {})
    _check_ranges(found)
    name = name or path.stem
    make = functools.partial(TorchScriptStrategy, model, found, ticks=ticks, opening=opening, name=name)
    return StrategyPolicy(make, name, dict(rivals or {}))


def load_torchscript(path: str | Path) -> Any:
    """A model that ``torch.jit.save`` wrote, on the CPU, to be used and not trained.

    Raises:
        ImportError: torch is not installed.
        FileNotFoundError: No such file.
        ValueError: The file holds no TorchScript model.
    """
    try:
        import torch
    except ImportError as error:
        raise ImportError("TorchScript models need torch: pip install 'adarena[sb3]'") from error
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must name a TorchScript model, got {str(path)!r}: no such file")
    try:
        return torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise ValueError(f"path must name a TorchScript model (torch.jit.save), got {str(path)!r}: {error}") from error


def read_ranges(path: str | Path) -> dict[int, tuple[float, float]]:
    """Reads AuctionNet's ``normalize_dict``: entry of the state to a dictionary with ``min`` and ``max``.

    Args:
        path: ``.json`` or ``.pkl``.

    Raises:
        FileNotFoundError: No such file.
        ValueError: The file holds no such dictionary, or a pickle of more than plain numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"ranges must name a file, got {str(path)!r}: no such file")
    if path.suffix not in (".json", ".pkl"):
        raise ValueError(f"ranges must be a .json or .pkl file, got {str(path)!r}")
    try:
        raw = json.loads(path.read_text()) if path.suffix == ".json" else _Plain(io.BytesIO(path.read_bytes())).load()
        return {int(entry): (float(bounds["min"]), float(bounds["max"])) for entry, bounds in raw.items()}
    except (AttributeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"ranges must map entries of the state to 'min' and 'max', got {str(path)!r}: {type(error).__name__}: {error}"
        ) from error


def _check_ranges(ranges: Ranges) -> None:
    for entry, bounds in ranges.items():
        if not 0 <= entry < len(STATE16):
            raise ValueError(f"ranges must name entries 0 to {len(STATE16) - 1} of the state, got {entry!r}")
        if not np.all(np.isfinite(bounds)):
            raise ValueError(f"ranges[{entry}] must be two finite numbers, got {bounds!r}")


class _Plain(pickle.Unpickler):
    """Reads pickles of plain numbers in dictionaries, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is no plain number")
        return super().find_class(module, name)
