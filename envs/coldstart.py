"""``adarena/ColdStart-v0``: a platform helps new ads, whose rates nobody knows, to be seen and learnt about."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from adarena.envs import coldstart_checks as checks
from adarena.envs import coldstart_info as shown
from adarena.envs import coldstart_setup as setup
from adarena.envs import coldstart_tick as tick_of
from adarena.envs import coldstart_view as view
from adarena.envs.coldstart_state import SUCCEEDED, State
from adarena.envs.core import Entry, Env, Key, StepResult, box_of
from adarena.envs.market.auction import AuctionRules
from adarena.envs.sets import SetLayout

REWARDS = ("success", "progress")


@dataclasses.dataclass(frozen=True)
class ColdStart(Env):
    """The placement agent of new ads in a market of ``mature`` and ``launched`` ads.

    The platform bids for every ad: target CPA x predicted clicks per exposure x predicted conversions per click x the known
    match of user and ad. Predictions of new ads are posterior means of a hierarchical prior (all ads, category,
    advertiser, content features), updated from what the auction lets the platform see. An ad whose prediction is too low
    is not shown, and nothing is learnt of it.

    **Success** of a launched ad: at least ``required_conversions`` conversions (by time of click) within ``window_days`` of
    its launch, at a cost per conversion of at most ``cpa_tolerance`` x target. It is decided when the window closes; who
    succeeds stays in the market to the end, who fails leaves.

    **Action**: float32 ``[3 L]`` in [-1, 1], three numbers a place: *bonus* on the ranking score (-1 none, 1 ``max_bonus``
    running mean prices of an exposure, times the match), *share* of the traffic that is protected for the ad, on which it
    ranks first (-1 none, 1 ``max_share``; scaled down together where they exceed ``max_share`` in all), and *bid
    multiplier* ``max_multiplier ** action``. Between their ends bonus and share go as ``((action + 1) / 2) ** 2``, so
    that small support, which is most of what is useful, has half of the range. Bonus and protection move ranks, not what
    the advertiser pays; the platform's exploration fund is charged the difference, in order, see
    `adarena.envs.market.boost`. Numbers of places that are not in their window are ignored. Once the fund is used up (or
    is 0) there is no support of any kind.

    **Observation**: float32, a context and the same features of every place, see `adarena.envs.coldstart_view`; ``layout``
    says where. All of it is known to the platform. A place is masked before launch and after its window.

    **Reward**: float32. ``"success"``: launched ads newly decided a success. ``"progress"``: the change of the potential
    (successes + sum over ads in their window of conversions / required, at most 1): the same sum over an episode, so
    undiscounted returns, and the order of policies, are equal.

    **Events** of new ads are single ones: an ad's conversions are a Poisson process in its cumulative expected conversions,
    fixed at reset, so success is a threshold in expectation. Mature ads' conversions are expectations. Exposures are
    expectations, weighted by the real impressions that a simulated one stands for.

    **Twin**: with ``twin`` the state carries a second market without support on the same random numbers.

    **End**: ``terminated`` after ``days x ticks_per_day`` ticks. Never ``truncated``.

    **Randomness**: fixed at ``reset`` by named streams (``traffic``, ``values``, ``response``, ``rivals``, ``exploration``).
    The key of ``step`` is not used.

    Attributes:
        mature: Mature ads.
        launched: ``L``, ads that are launched in the episode, one a place.
        days: Days of an episode.
        ticks_per_day: Ticks in a day.
        impressions: ``M``, impressions simulated a tick.
        slots: ``K``.
        categories: ``C``.
        advertisers: ``J``, owners of the ads, each in one category.
        mechanism: ``"gsp"`` or ``"first_price"``.
        delay: Whether conversions are reported with a delay (``delay_distribution`` of the parameters).
        twin: Whether a market without support is stepped beside it.
        reward: ``"success"`` or ``"progress"``.
        spread: Standard deviation of the log match of a user and an ad.
        correlation: Share of that variance common to all ads.
        category_correlation: Share common to a category.
        blocks: Blocks of ``M`` impressions in the bank.
        bank_seed: Seed of the bank.
        record: Whether ``info`` carries predictions, truth and prices by ad (for figures and the bound).
        truth: Whether ads show two more features, their true rates (`adarena.envs.coldstart_view.TRUTH`): for oracles
            only, never for a policy that is to be compared. The market is the same.
    """

    mature: int = 112
    launched: int = 48
    days: int = 14
    ticks_per_day: int = 8
    impressions: int = 64
    slots: int = 3
    categories: int = 8
    advertisers: int = 32
    mechanism: str = "gsp"
    delay: bool = True
    twin: bool = True
    reward: str = "success"
    spread: float = 1.0
    correlation: float = 0.2
    category_correlation: float = 0.2
    blocks: int = 128
    bank_seed: int = 0
    record: bool = False
    truth: bool = False

    NESTED: ClassVar[dict[str, str]] = dict.fromkeys(checks.TERMS, "terms")
    neutral_action: ClassVar[tuple[float, float, float]] = (-1.0, -1.0, 0.0)
    """Numbers of a place that ask for no support; see `neutral_action`."""

    def __post_init__(self) -> None:
        """Refuses sizes and names that no market has."""
        checks.check_static(self)

    @property
    def ticks(self) -> int:
        """Ticks of an episode."""
        return self.days * self.ticks_per_day

    @property
    def layout(self) -> SetLayout:
        """Where context and ads lie in observation and action."""
        return view.layout(self.launched, self.truth)

    @property
    def OBSERVATION(self) -> tuple[Entry, ...]:  # type: ignore[override]  # noqa: N802
        """The entries of the observation, in order."""
        return view.entries(self.launched, self.truth)

    @property
    def rules(self) -> AuctionRules:
        """The auction's static part."""
        return AuctionRules(self.mechanism, self.slots)

    def default_params(self) -> setup.Params:
        """Numbers of the default market, with its bank of impressions."""
        return setup.default_params(self)

    def validate_changes(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Checks and converts numeric changes (see `adarena.envs.registry.make`)."""
        return checks.validate_changes(self, changes)

    def observation_space(self, params: setup.Params) -> gymnasium.spaces.Box:
        """Bounds of every entry."""
        return box_of(self.OBSERVATION)

    def action_space(self, params: setup.Params) -> gymnasium.spaces.Box:
        """``Box(-1, 1, (3 L,))``."""
        return gymnasium.spaces.Box(-1.0, 1.0, (3 * self.launched,), np.float32)

    def max_steps(self, params: setup.Params) -> int:
        """``days x ticks_per_day``."""
        return self.ticks

    def reset(self, key: Key, params: setup.Params) -> tuple[jax.Array, State]:
        """Draws rates, histories, bidders, launches, luck and traffic."""
        world = setup.draw_world(self, key, params)
        side = setup.open_side(self, world, params)
        state = State(tick=jnp.int32(0), world=world, side=side, twin=side if self.twin else None)
        return view.observe(self, state, params), state

    def step(self, key: Key, state: State, action: jax.Array, params: setup.Params) -> StepResult:
        """Clears one tick with the support that ``action`` names."""
        del key  # an episode's luck is fixed at reset
        world, tick = state.world, state.tick
        now = tick_of.moment(self, world, tick, params)
        control = tick_of.controls(self, world, state.side, tick, jnp.ravel(action), params)
        side, result = tick_of.advance(self, world, state.side, now, tick, control, params)
        twin, other = state.twin, None
        if twin is not None:
            twin, other = tick_of.advance(self, world, twin, now, tick, tick_of.no_controls(self), params)
        after = State(tick=tick + 1, world=world, side=side, twin=twin)
        if self.reward == "success":
            reward = shown.successes(side) - shown.successes(state.side)
        else:
            before = shown.potential(self, world, state.side, tick, params)
            reward = shown.potential(self, world, side, tick + 1, params) - before
        info = shown.tick_info(self, after, result, other, now, params)
        last = tick + 1 >= self.ticks
        return StepResult(view.observe(self, after, params), after, reward, last, jnp.bool_(False), info)

    def metrics(self, state: State, params: setup.Params) -> dict[str, jax.Array]:
        """What has come of launched ads and platform so far; float32 scalars, money in currency units.

        Rates are over all launched ads. ``expected_conversions`` is the mean over ads of true expected conversions by the
        end of the window (Lambda), ``expected_enough`` the share of ads with at least as many as required. Losses and
        gains are relative to the twin; without one ``revenue_loss`` is the fund's charges over revenue. ``score``, which
        the tuner maximises, is ``success_rate``.
        """
        return shown.metrics(self, state, params)

    def item_outcomes(self, before: State, after: State, params: setup.Params) -> tuple[jax.Array, jax.Array]:
        """What a step brought each launched ad, and what it cost of what all share; float32 ``[L]`` each.

        Returns:
            1 where the ad was newly decided a success; the fund's charge for it over an even part of the fund (fund over
            places; 0 where there is no fund).
        """
        new = (after.side.outcome == SUCCEEDED) & (before.side.outcome != SUCCEEDED)
        part = jnp.maximum(after.world.fund / self.launched, 1e-9)
        return new.astype(jnp.float32), (after.side.charge - before.side.charge) / part

    def true_rates(self, state: State) -> tuple[jax.Array, jax.Array]:
        """True clicks per exposure and conversions per click of the launched ads, ``[L]`` each, for an oracle."""
        return state.world.ctr.rate[self.mature :], state.world.cvr.rate[self.mature :]

    def bound(self, infos: dict[str, jax.Array], state: State, params: setup.Params) -> dict[str, jax.Array]:
        """Most successes of a recorded episode (``record=True``), see `adarena.envs.coldstart_bound`.

        Args:
            infos: Stacked ``info`` of the episode, arrays ``[T, ...]``.
            state: Its last state.
            params: Its parameters.
        """
        from adarena.envs.coldstart_bound import most_successes

        return most_successes(self, infos, state, params) if "rivals" in infos else {}

    def render(self, state: State, params: setup.Params) -> np.ndarray:
        """Revenue, fund, outcomes and predictions so far, ``[H, W, 3]`` uint8."""
        from adarena.envs.coldstart_render import draw_launches

        return draw_launches(self, state, params)


def neutral_action(layout: SetLayout) -> jax.Array:
    """The action that supports nobody: no bonus, no protected traffic, multiplier 1; float32 ``[3 L]``."""
    return jnp.tile(jnp.asarray(ColdStart.neutral_action, jnp.float32), layout.items)
