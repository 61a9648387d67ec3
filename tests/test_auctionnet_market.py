"""The preset ``auctionnet``: its traffic and values, strategies in it, its logs, and the protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adarena import envs
from adarena.envs.adapters.auctionnet import load_strategies
from adarena.envs.adapters.auctionnet_host import SEAT, StrategyPolicy, play
from adarena.envs.adapters.auctionnet_state import STATE16, state16
from adarena.envs.data.auctionnet import log_of, read_log, write_log
from adarena.envs.data.auctionnet_training import training_table
from adarena.envs.market.counter import normals, normals_of
from adarena.envs.testing import check_env
from adarena.experiments import auctionnet
from adarena.experiments.cli import main
from adarena.experiments.rollout import rollout

SMALL = {"advertisers": 6, "impressions": 32, "tick_blocks": 4, "blocks": 8, "ticks": 8, "daily_impressions": 500.0}
EXAMPLE = str(Path(__file__).parents[1] / "examples" / "auctionnet_strategy.py")
SHARED = Path(__file__).parents[2] / "shared" / "data" / "auctionnet_params" / "auctionnet_defaults.json"


def small(**changes: Any) -> tuple[Any, Any]:
    return envs.make("adarena/AutoBid-v0", **(envs.PRESETS["auctionnet"] | SMALL | changes))


def day(env: Any, params: Any, key: int = 0, *, bids: bool = False) -> Any:
    """Last state and stacked infos of a day at the target; through `step_bids` with nobody's bids given if wished."""
    nobody = jnp.full((env.advertisers, env.tick_impressions), jnp.nan)

    def tick(state: Any, _: None) -> tuple[Any, Any]:
        if bids:
            result, _ = env.step_bids(jax.random.key(0), state, jnp.zeros(1), nobody, params)
        else:
            result = env.step(jax.random.key(0), state, jnp.zeros(1), params)
        return result.state, result.info

    _, state = env.reset(jax.random.key(key), params)
    return jax.jit(lambda state: jax.lax.scan(tick, state, None, length=env.ticks))(state)


def test_normals_have_the_moments_of_normals_and_no_correlations() -> None:
    seed = jnp.asarray([1, 2], jnp.uint32)
    z = np.asarray(normals(seed, jnp.arange(40_000), 49), np.float64)
    assert z.shape == (49, 40_000)
    count = z.size
    for power, mean, variance in ((1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)):
        assert abs((z**power).mean() - mean) < 4.0 * np.sqrt(variance / count), power
    between = np.corrcoef(z)[np.triu_indices(49, 1)] * np.sqrt(z.shape[1])
    assert abs(between.std() - 1.0) < 0.1
    assert np.abs(between).max() < 5.0
    for lag in (1, 2, 64, 2048):  # from one impression to another
        pairs = z[:, lag:] * z[:, :-lag]
        assert abs(pairs.mean()) < 4.0 / np.sqrt(pairs.size)
    squares = (z[:24] ** 2 - 1.0) * (z[25:49] ** 2 - 1.0)  # rows that share a hash
    assert abs(squares.mean()) < 4.0 * 2.0 / np.sqrt(squares.size)
    other = np.asarray(normals(jnp.asarray([1, 3], jnp.uint32), jnp.arange(40_000), 49))
    assert abs((z * other).mean()) < 4.0 / np.sqrt(count)


@pytest.mark.parametrize("row", [0, 3, 4, 6])
def test_a_row_of_normals_is_drawn_alone_as_with_the_others(row: int) -> None:
    seed, number = jnp.asarray([7, 9], jnp.uint32), jnp.arange(100)
    np.testing.assert_array_equal(normals_of(seed, number, 7, jnp.int32(row)), normals(seed, number, 7)[row])


def test_packaged_facts_are_the_published_ones() -> None:
    if not SHARED.exists():
        pytest.skip("AuctionNet's published parameters are not at ../shared/data")
    import json

    from adarena.envs.data.calibration import auctionnet_facts

    published, ours = json.loads(SHARED.read_text()), auctionnet_facts()
    assert ours["budget"] == published["budget_48"]
    assert ours["cpa"] == published["cpa_constraint_48"]
    np.testing.assert_allclose(ours["daily"], published["traffic_share_48"], atol=1e-7)


def test_preset_has_auctionnets_advertisers_and_half_a_million_impressions() -> None:
    env, params = envs.make("adarena/AutoBid-v0", **envs.PRESETS["auctionnet"], fresh_draws=True)
    assert (env.advertisers, env.ticks, env.slots, env.mechanism) == (48, 48, 3, "gsp")  # type: ignore[attr-defined]
    np.testing.assert_allclose(params.base_budget[:3], [2900.0, 4350.0, 3000.0])
    np.testing.assert_allclose(params.base_target[:3], [100.0, 70.0, 90.0])
    np.testing.assert_allclose(params.terms.exposure, [1.0, 0.8, 0.6], rtol=1e-6)
    for key in range(3):
        _, state = env.reset(jax.random.key(key), params)
        assert abs(float(state.volume.sum()) - 500_000.0) < 48
        assert float(state.volume.max()) <= env.tick_impressions  # type: ignore[attr-defined]


@pytest.mark.parametrize("fresh", [False, True])
def test_every_impression_is_simulated_once(fresh: bool) -> None:
    env, params = small(fresh_draws=fresh)
    state, info = day(env, params)
    np.testing.assert_allclose(np.asarray(state.history.offered), state.volume)
    assert (np.asarray(state.accounts.spend) <= np.asarray(state.budget)).all()
    assert (np.asarray(info["exposure"]).sum(axis=1) <= 2.28 * np.asarray(state.volume) + 1e-3).all()
    assert float(state.accounts.conversion.sum()) > 0.0


@pytest.mark.parametrize(("fresh", "response"), [(False, "expected"), (True, "expected"), (True, "sampled")])
def test_a_day_block_by_block_is_the_day_at_once(fresh: bool, response: str) -> None:
    # Budgets end within the day, so that money in order is put to the test.
    env, params = small(fresh_draws=fresh, response=response, base_budget=np.full(6, 0.3))
    parts, at_once = day(env, params)[0], day(env, params, bids=True)[0]
    assert bool(parts.exhausted.any())
    np.testing.assert_array_equal(parts.exhausted, at_once.exhausted)
    for name in ("spend", "exposure", "conversion"):
        np.testing.assert_allclose(getattr(parts.accounts, name), getattr(at_once.accounts, name), rtol=1e-4)
    np.testing.assert_allclose(parts.history.landscape_value, at_once.history.landscape_value, rtol=1e-4, atol=1e-7)


def test_recorded_prices_bound_the_day() -> None:
    env, params = small(record=True)
    state, info = day(env, params)
    assert info["opportunity_cost"].shape == (8, 3, 128)
    bound = env.bound(info, state, params)
    assert float(bound["hindsight_score"]) >= float(env.metrics(state, params)["score"]) - 1e-4


def test_a_price_at_the_reserve_voids_the_slot_if_wished() -> None:
    # One bidder alone: whatever it wins costs the reserve.
    alone = {"advertisers": 1, "categories": 1, "seat": 0}
    for void, sold in ((True, False), (False, True)):
        env, params = small(**alone, void_at_reserve=void)
        assert bool(day(env, params)[0].accounts.exposure.sum() > 0.0) is sold


def test_offers_are_what_the_market_clears() -> None:
    env, params = small()
    _, state = env.reset(jax.random.key(1), params)
    offers = env.offers(state, params)
    assert offers.pvalue.shape == offers.sigma.shape == (6, 128)
    real = np.asarray(offers.weight) > 0.0
    assert real.sum() == float(state.volume[0])
    assert (np.diff(np.asarray(offers.weight)) <= 0.0).all()
    assert (np.asarray(offers.sigma) <= 0.3 * np.asarray(offers.pvalue) + 1e-9).all()
    bids = np.asarray(offers.pvalue) * np.asarray(state.target)[:, None]
    _, outcome = env.step_bids(jax.random.key(0), state, jnp.zeros(1), jnp.asarray(bids), params)
    order = np.sort(bids, axis=0)[::-1]
    # The first price paid is the second bid, unless it is below the reserve, where the slot stays empty.
    paid = np.asarray(outcome.winner[0]) >= 0
    np.testing.assert_allclose(np.asarray(outcome.price[0])[paid & real], order[1][paid & real], rtol=1e-5)
    with pytest.raises(ValueError, match=r"bids must have shape \(6, 128\)"):
        env.step_bids(jax.random.key(0), state, jnp.zeros(1), jnp.zeros((6, 127)), params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"charge": "click"}, "charge must be 'impression' where traffic is 'auctionnet', got 'click'"),
        ({"traffic": "calibrated"}, "tick_blocks must be 1 unless traffic is 'auctionnet', got 4"),
        ({"fresh_draws": 1}, "fresh_draws must be True or False, got 1"),
        ({"tick_blocks": 0}, "tick_blocks must be a whole number from 1 to 1024, got 0"),
        ({"void_at_reserve": 1.0}, "void_at_reserve must be True or False, got 1.0"),
        ({"drift_noise": 0.1}, "drift_noise has no meaning where traffic is 'auctionnet', got 0.1"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_a_bank_of_another_market_is_refused() -> None:
    bank = small()[1].bank
    assert small(bank=bank)[1].bank is bank
    with pytest.raises(ValueError, match=r"bank must hold normals of shape \(blocks, \*\(6, 16\)\)"):
        small(bank=bank, impressions=16)
    with pytest.raises(ValueError, match=r"bank must be a .*NormalBank"):
        small(bank=envs.make("adarena/AutoBid-v0", blocks=2)[1].bank)


def test_a_strategy_plays_in_the_same_table_on_the_same_cases(tmp_path: Path) -> None:
    env, params = small(seat=2)
    cls = load_strategies(f"{EXAMPLE}:TargetPacing")["TargetPacing"]
    keys = jax.random.split(jax.random.key(3), 2)
    fields = {"seat": np.asarray([1, 2], np.int32)}
    one, two = (rollout(env, params, StrategyPolicy(cls), keys, fields, bound=False).metrics for _ in range(2))
    np.testing.assert_array_equal(one["seat"], [1, 2])
    np.testing.assert_array_equal(one["score"], two["score"])
    played = play(env, params, keys[0], {SEAT: cls, 0: cls}, record=True)
    assert played.record is not None
    log = log_of(played.record)
    write_log(log, tmp_path / "log.csv")
    again, report = read_log(tmp_path / "log.csv")
    assert not report.bad
    assert again.equals(log)
    assert len(training_table(log)) == 6 * 8


def test_protocol_plays_rules_and_strategies_on_the_same_cases(tmp_path: Path) -> None:
    config = auctionnet.AuctionNetConfig(
        policy=("min_pacing", f"auctionnet:{EXAMPLE}:TargetPacing"),
        markets=2,
        seats=3,
        tune_episodes=0,
        out=str(tmp_path / "scores.parquet"),
    )
    scores = auctionnet.run(config, **SMALL)
    assert scores["policy"].unique().sort().to_list() == ["TargetPacing", "min_pacing"]
    assert len(scores) == 2 * 6
    assert (tmp_path / "scores.parquet").is_file()
    summary = auctionnet.summarise(scores)
    assert summary["difference"][0] == 0.0
    for column in auctionnet.COLUMNS:
        assert summary[f"{column}_low"].is_not_null().all()


def test_budgets_go_round_and_seats_take_turns() -> None:
    cases = auctionnet.draw_cases(auctionnet.AuctionNetConfig(), 48).table
    assert len(cases) == 480
    each = cases.group_by("seat", "budget_scale").len()
    assert len(each) == 48 * 5
    assert (each["len"] == 2).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "nobody"], "policy must be a rule"),
        (["--policy", "constant", "--policy", "constant"], "policy names must differ, got 'constant' twice"),
        (["--protocol", "other"], "protocol must be 'auctionnet', got 'other'"),
        (["--policy", "auctionnet:nowhere.py:X"], "nowhere.py"),
    ],
)
def test_command_line_refusals(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", *words])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tune_episodes": 10}, "tune_episodes must be 0 or at least 256, got 10"),
        ({"seats": 49}, r"seats must lie in \[1, 48\], got 49"),
        ({"markets": 0}, "markets must lie in"),
    ],
)
def test_protocol_refusals(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auctionnet.AuctionNetConfig(**changes)


class AlphaByTick:
    """A strategy that bids a multiple of the prediction, another one each tick, and keeps its sixteen numbers."""

    alphas = np.linspace(0.6, 1.6, 8)

    def __init__(self, budget: float = 100.0, name: str = "", cpa: float = 2.0, category: int = 1) -> None:
        self.budget = self.remaining_budget = budget
        self.cpa, self.category, self.name = cpa, category, name
        self.states: list[np.ndarray] = []

    def reset(self) -> None:
        self.remaining_budget = self.budget

    def bidding(self, tick: int, p_values: np.ndarray, sigmas: np.ndarray, *history: Any) -> np.ndarray:
        self.states.append(state16(tick, p_values, self.remaining_budget, self.budget, *history, ticks=8))
        return self.alphas[tick] * self.cpa * p_values


@pytest.mark.parametrize("budget", [1e4, 0.6])
def test_the_sixteen_numbers_are_an_observation(budget: float) -> None:
    money = {"seat": 2, "base_budget": np.full(6, budget)}
    env, params = small(observation="auctionnet", daily_impressions=350.0, **money)
    assert tuple(entry.name for entry in env.OBSERVATION) == STATE16
    strategy = AlphaByTick()
    play(env, params, jax.random.key(4), {SEAT: strategy})
    obs, state = env.reset(jax.random.key(4), params)
    step = jax.jit(env.step)
    assert len(strategy.states) == 8 or budget < 1.0, "a bidder without money is not asked"
    for tick in range(len(strategy.states)):
        assert obs.shape == (16,)
        np.testing.assert_allclose(obs, strategy.states[tick], rtol=2e-3, atol=1e-7, err_msg=f"tick {tick}")
        action = np.log(strategy.alphas[tick : tick + 1]) / np.log(float(params.max_multiplier))
        obs, state, *_ = step(jax.random.key(0), state, jnp.asarray(action, jnp.float32), params)
    check_env(env, params)
