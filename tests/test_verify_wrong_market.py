"""`adarena verify` on markets that are wrong: each mistake in the auction makes the rows that it concerns fail."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adarena.envs.market import auction, clearing
from adarena.experiments import cli, verify
from adarena.experiments.theory import autobidding, equilibrium, pacing, positions, predictions, single_item, whole_tick
from adarena.experiments.theory.row import Row

PAYMENT, ELIGIBLE, RANK = auction.payment_score, auction.eligible, auction.rank


@pytest.fixture(autouse=True)
def _programs_of_this_market_only() -> Iterator[None]:
    """Compiled programs hold the market that they were traced with."""
    jax.clear_caches()
    yield
    jax.clear_caches()


def _as(mechanism: str, charged: str) -> Callable[..., jax.Array]:
    """Payments in which ``mechanism`` charges what ``charged`` should."""

    def payment(rules: auction.AuctionRules, score: jax.Array, exposure: jax.Array, reserve: jax.Array) -> jax.Array:
        name = charged if rules.mechanism == mechanism else rules.mechanism
        return PAYMENT(auction.AuctionRules(name, slots=rules.slots), score, exposure, reserve)

    return payment


def _no_reserve_in_price(rules: Any, score: jax.Array, exposure: jax.Array, reserve: jax.Array) -> jax.Array:
    return PAYMENT(rules, score, exposure, jnp.zeros_like(reserve))


def _a_hundredth_more(*args: Any) -> jax.Array:
    return 1.01 * PAYMENT(*args)


def _everybody_eligible(score: jax.Array, reserve: jax.Array) -> jax.Array:
    return ELIGIBLE(score, jnp.zeros_like(reserve))


def _second_best_wins(score: jax.Array, priority: jax.Array, slots: int) -> auction.Ranking:
    right = RANK(score, priority, slots + 1)
    return auction.Ranking(right.score[:-1], right.winner[1:])


def _spoil(monkeypatch: pytest.MonkeyPatch, name: str, mistake: Callable[..., Any]) -> None:
    """Puts a mistake where the market's clearing and the truths look the function up."""
    for module in (clearing, equilibrium):
        monkeypatch.setattr(module, name, mistake)


def _failing(rows: list[Row]) -> set[str]:
    return {row.truth for row in rows if not row.holds}


def _equilibrium(bidders: int, reserve: float) -> list[Row]:
    values = np.random.default_rng(0).random((bidders, 20_000), np.float32)
    return single_item._equilibrium_rows(bidders, reserve, values, 0)


def test_first_price_that_charges_the_second_bid(monkeypatch: pytest.MonkeyPatch) -> None:
    _spoil(monkeypatch, "payment_score", _as("first_price", "gsp"))
    failing = _failing(_equilibrium(2, 0.0))
    assert {"First-price equilibrium: bid", "First-price equilibrium: gain from another bid, at most"} & failing
    assert "First-price equilibrium: revenue" in failing or "First-price equilibrium: bid" in failing
    assert "Second price, truthful: revenue" not in failing


def test_a_reserve_that_is_not_charged_or_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    _spoil(monkeypatch, "payment_score", _no_reserve_in_price)
    assert "Second price, truthful: revenue" in _failing(_equilibrium(2, 0.5))
    monkeypatch.undo()
    jax.clear_caches()
    _spoil(monkeypatch, "eligible", _everybody_eligible)
    failing = _failing(whole_tick.tick_rows(20_000, 0))
    assert {f"Tick, truthful bids, {name}: value won" for name in ("first_price", "gsp", "vcg")} <= failing


def test_slots_that_charge_by_another_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    _spoil(monkeypatch, "payment_score", _as("vcg", "gsp"))
    failing = _failing(positions._example_rows(0))
    assert {"VCG payment", "VCG revenue", "VCG: gain from not bidding the truth"} <= failing
    assert "GSP revenue, truthful bids" not in failing
    monkeypatch.undo()
    jax.clear_caches()
    _spoil(monkeypatch, "payment_score", _as("gsp", "second_price"))
    failing = _failing(positions._example_rows(0))
    assert {"GSP revenue, truthful bids", "GSP, lowest envy-free equilibrium: revenue"} <= failing
    assert "VCG payment" not in failing


def test_a_winner_who_is_not_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    _spoil(monkeypatch, "rank", _second_best_wins)
    assert "First-price equilibrium: welfare" in _failing(_equilibrium(2, 0.0))


def test_budgets_targets_and_predictions_notice_too(monkeypatch: pytest.MonkeyPatch) -> None:
    _spoil(monkeypatch, "payment_score", _as("second_price", "first_price"))
    assert "Target cost: cost per value" in _failing(autobidding._scaling_rows(20_000, 0))
    assert _failing(autobidding._anarchy_rows())
    found = autobidding.adaptive_pacing(1_000, 64, 0.1, seed=0)
    regret = (found.relaxed - found.utility).mean() / 1_000**0.5
    assert abs(regret - 0.38) > 0.1
    monkeypatch.undo()
    jax.clear_caches()
    _spoil(monkeypatch, "payment_score", _as("first_price", "gsp"))
    assert "First-price pacing: revenue" in _failing(pacing._known_rows())
    monkeypatch.undo()
    jax.clear_caches()
    _spoil(monkeypatch, "rank", _second_best_wins)
    true, predicted = predictions.winners(10, 0.5, 0.3, 20_000, (0,))
    assert abs(true.mean() / predicted.mean() - predictions.curse(10, 0.5, 0.3)) > 0.01


def test_the_command_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(verify, "groups", lambda: {"slots": lambda samples, seed: positions._example_rows(seed)})
    words = ["verify", "--out", str(tmp_path)]
    cli.main(words)
    assert "FAILS" not in capsys.readouterr().out
    _spoil(monkeypatch, "payment_score", _a_hundredth_more)
    jax.clear_caches()
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 1
    assert "FAILS" in capsys.readouterr().out
