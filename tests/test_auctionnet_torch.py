"""TorchScript models of AuctionNet's state bid in a market."""

from __future__ import annotations

import builtins
import dataclasses
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from auctionnet_market import SmallMarket

from adarena.agents import torchscript
from adarena.agents.torchscript import TorchScriptStrategy, load_torchscript, read_ranges, torchscript_policy
from adarena.envs.adapters.auctionnet import StrategyError
from adarena.envs.adapters.auctionnet_host import SEAT, play

ENV = SmallMarket(ticks=4)
PARAMS = dataclasses.replace(ENV.default_params(), seat=np.int32(2))
KEY = jax.random.key(0)


def _save(path: Path, outputs: int = 1) -> np.ndarray:
    """A linear model with given weights, saved; returns its weights."""
    import torch

    layer = torch.nn.Linear(16, outputs)
    weights = np.zeros((outputs, 16), np.float32)
    weights[:, 1], weights[:, 14] = 30.0, 0.5  # budget left, impressions of the last three ticks
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights))
        layer.bias.fill_(10.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(layer, torch.zeros(16)), str(path))
    return weights


@pytest.fixture
def model(tmp_path: Path) -> Path:
    pytest.importorskip("torch")
    _save(tmp_path / "model.pth")
    return tmp_path / "model.pth"


@pytest.mark.parametrize("ranges", [None, {14: (10.0, 20.0)}])
def test_a_model_bids_alpha_times_prediction(model: Path, ranges: dict[int, tuple[float, float]] | None) -> None:
    policy = torchscript_policy(model, ranges, ticks=4)
    assert policy.name == "model"
    strategy = TorchScriptStrategy(load_torchscript(model), ranges, ticks=4)
    played = play(ENV, PARAMS, KEY, {SEAT: strategy})
    assert played.metrics == policy.run_episode(ENV, PARAMS, KEY)
    assert played.record is not None
    seen = 0.0
    for t, tick in enumerate(played.record.ticks):
        last = seen if ranges is None else (seen - 10.0) / 10.0
        alpha = 10.0 + 30.0 * tick.remaining[2] / 200.0 + 0.5 * last
        np.testing.assert_allclose(tick.bid[2] / tick.p_value[2], alpha, rtol=1e-5, err_msg=f"tick {t}")
        seen += len(tick.least_winning)


def test_a_model_with_another_output_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    _save(tmp_path / "two.pth", outputs=2)
    with pytest.raises(StrategyError, match="two: the model must give one finite number"):
        torchscript_policy(tmp_path / "two.pth").run_episode(SmallMarket(), PARAMS, KEY)


def test_files_that_are_none_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        torchscript_policy(tmp_path / "nothing.pth")
    (tmp_path / "text.pth").write_text("no model")
    with pytest.raises(ValueError, match=r"must name a TorchScript model .*text\.pth"):
        load_torchscript(tmp_path / "text.pth")
    with pytest.raises(ValueError, match="entries 0 to 15 of the state, got 16"):
        torchscript_policy(model, {16: (0.0, 1.0)})


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "torch":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'adarena\[sb3\]'"):
        torchscript_policy("model.pth")


def test_ranges_are_read_from_json_and_from_pickles_of_numbers(tmp_path: Path) -> None:
    raw = {13: {"min": np.float64(1.5), "max": np.int64(9), "mean": 3.0, "std": 1.0}, 14: {"min": 0, "max": 2}}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(raw))
    (tmp_path / "a.json").write_text(json.dumps(raw, default=float))
    for name in ("a.pkl", "a.json"):
        assert read_ranges(tmp_path / name) == {13: (1.5, 9.0), 14: (0.0, 2.0)}
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({0: torchscript.read_ranges}))
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "a.txt").touch()
    cases = {"evil.pkl": "is no plain number", "list.json": "must map entries", "a.txt": r"\.json or \.pkl"}
    for name, words in cases.items():
        with pytest.raises(ValueError, match=words):
            read_ranges(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_ranges(tmp_path / "nothing.json")
