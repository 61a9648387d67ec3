"""``adarena/AutoBid-v0``: one seat bids for its advertiser through a day, against rivals that spend their own budgets."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from adarena.envs import auctionnet_view, rivals
from adarena.envs import autobid_checks as checks
from adarena.envs import autobid_info as shown
from adarena.envs import autobid_setup as setup
from adarena.envs import autobid_tick as tick_of
from adarena.envs.autobid_state import State
from adarena.envs.core import Entry, Env, Key, StepResult, box_of
from adarena.envs.market.auction import AuctionRules
from adarena.envs.market.clearing import Bidders
from adarena.envs.market.dropping import OVERSPEND
from adarena.envs.market.hindsight import hindsight
from adarena.envs.market.ledger import Accounts, open_accounts, score
from adarena.envs.market.response import RESPONSES
from adarena.envs.market.tick import TickResult
from adarena.envs.observation import (
    History,
    Outlook,
    empty_history,
    entries,
    observe,
)

OBJECTIVES = ("cpa", "roas", "budget")


@dataclasses.dataclass(frozen=True)
class AutoBid(Env):
    """One seat sets a bid multiplier every tick; ``N - 1`` rivals run control laws on budgets and targets of their own.

    **Action**: float32 ``[1]`` in [-1, 1]. The seat bids ``multiplier x target x predicted value`` on every impression of the
    tick, with ``multiplier = max_multiplier ** action``: 0 bids the target itself (CPA x pCTR x pCVR; value / ROAS),
    -1 an eighth of it, +1 eight times. Where no target binds (``objective="budget"``), the advertiser's usual one serves
    as the reference.

    **Observation**: float32, one entry a name, see `adarena.envs.observation.entries`.

    **Reward**: float32, the change of the running score, value x min(1, (target / cost per value)^2), in units of value
    (conversions; currency units for ``"roas"``). Undiscounted rewards add up to the day's score, so no shaping changes the
    order of policies. Where days differ in size (``day_scale_low``, ``day_scale_high``; 1 by default) it is divided by the
    day's, so that large days do not drown small ones. With delays the running score counts what has been reported; the
    last tick settles the rest.

    **Budgets**: an advertiser, the seat included, bids until the first charge that it cannot pay and then pauses for the
    day, as campaigns limited by their budget do (``overspend="drop"`` does as AuctionNet does).

    **End**: ``terminated`` after ``ticks`` ticks. A seat out of money stays and can only wait. Never ``truncated``.

    **Randomness**: fixed at ``reset`` by named streams (``traffic``, ``values``, ``response``, ``rivals``), so that two
    policies reset with one key meet the same impressions, noise and luck. The key of ``step`` is not used.

    Attributes:
        advertisers: ``N``, seats in the market.
        ticks: ``T``, ticks in a day of 24 hours.
        impressions: ``M``, impressions simulated a tick; each stands for (real impressions / M).
        slots: ``K``.
        categories: ``C``.
        mechanism: ``"gsp"``, ``"first_price"``, ``"second_price"`` or ``"vcg"``.
        charge: ``"impression"``, ``"click"`` or ``"conversion"``.
        quality_ranking: Rank by bid x quality^kappa.
        objective: ``"cpa"``: conversions under budget and CPA; ``"roas"``: value under budget and ROAS; ``"budget"``:
            conversions under the budget alone.
        response: ``"expected"`` books expectations (the default: less noise, same order), ``"sampled"`` draws events.
        delay: Whether conversions are reported with a delay (``delay_distribution`` of the parameters).
        prediction_error: Whether predictions differ from the truth (``error_bias``, ``error_noise``, ``error_slope``).
        traffic: ``"calibrated"``, ``"synthetic"``, ``"calibration:PATH"`` (a file of ``adarena calibrate``),
            ``"ipinyou:PATH"`` (replay of logs; one advertiser against logged prices), ``"replay"`` (of a log drawn
            from the published calibration, see `adarena.envs.replay`), ``"auctionnet"`` (that simulator's generator, see
            `adarena.envs.market.normal_values`).
        log_part: ``"all"``, ``"train"`` or ``"test"`` of a replayed log.
        correlation: Share of the variance of log values common to all advertisers.
        category_correlation: Share common to a category.
        spread: Standard deviation of log values.
        blocks: Blocks of ``M`` impressions in the bank.
        bank_seed: Seed of the bank.
        record: Whether ``info`` carries what every slot would have cost the seat (for hindsight).
        tick_blocks: Most blocks that a tick visits. With 1 the block stands for the whole tick (thinning); with more every
            impression stands for itself (traffic ``"auctionnet"`` only).
        overspend: ``"in_order"``: a bidder leaves at the first charge that it cannot pay; ``"drop"``: AuctionNet's way,
            random wins of whoever overspends are withdrawn, see `adarena.envs.market.dropping`.
        fresh_draws: Whether every value is drawn anew instead of from a bank (traffic ``"auctionnet"`` only).
        observation: ``"full"``, see `adarena.envs.observation.entries`, or ``"auctionnet"``, that simulator's sixteen
            numbers, see `adarena.envs.auctionnet_view.ENTRIES`.
    """

    advertisers: int = 48
    ticks: int = 48
    impressions: int = 64
    slots: int = 3
    categories: int = 6
    mechanism: str = "gsp"
    charge: str = "impression"
    quality_ranking: bool = False
    objective: str = "cpa"
    response: str = "expected"
    delay: bool = False
    prediction_error: bool = False
    traffic: str = "calibrated"
    log_part: str = "all"
    correlation: float = 0.3
    category_correlation: float = 0.2
    spread: float = 0.7
    blocks: int = 512
    bank_seed: int = 0
    record: bool = False
    tick_blocks: int = 1
    overspend: str = "in_order"
    fresh_draws: bool = False
    observation: str = "full"

    NESTED: ClassVar[dict[str, str]] = dict.fromkeys(checks.TERMS, "terms")

    def __post_init__(self) -> None:
        """Refuses sizes and names that no market has."""
        AuctionRules(self.mechanism, self.slots, self.charge, self.quality_ranking)
        checks.check_sizes(self)
        checks.check_choice("objective", self.objective, OBJECTIVES)
        checks.check_choice("response", self.response, RESPONSES)
        checks.check_choice("overspend", self.overspend, OVERSPEND)
        checks.check_choice("observation", self.observation, auctionnet_view.OBSERVATIONS)
        checks.check_choice("log_part", self.log_part, checks.LOG_PARTS)

    @property
    def OBSERVATION(self) -> tuple[Entry, ...]:  # type: ignore[override]  # noqa: N802
        """The entries of the observation, in order."""
        return auctionnet_view.ENTRIES if self.observation == "auctionnet" else entries(self.categories)

    @property
    def rules(self) -> AuctionRules:
        """The auction's static part."""
        return AuctionRules(self.mechanism, self.slots, self.charge, self.quality_ranking)

    @property
    def tick_impressions(self) -> int:
        """Most impressions that a tick simulates."""
        return self.tick_blocks * self.impressions

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
        """``Box(-1, 1, (1,))``."""
        return gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def max_steps(self, params: setup.Params) -> int:
        """``ticks``."""
        return self.ticks

    def reset(self, key: Key, params: setup.Params) -> tuple[jax.Array, State]:
        """Draws traffic, drift, seat, budgets, targets and rivals for a day."""
        streams = {name: jax.random.fold_in(key, n) for n, name in enumerate(setup.STREAMS)}
        draws = setup.draw_advertisers(self, streams["rivals"], params)
        drift, volume = setup.draw_day(self, streams, params, draws.day_scale)
        state = State(
            tick=jnp.int32(0),
            seat=draws.seat,
            day_scale=draws.day_scale,
            traffic=streams["traffic"],
            response=streams["response"],
            volume=volume,
            drift=drift,
            budget=draws.budget,
            target=draws.target,
            kind=draws.kind,
            control=rivals.begin(draws.start),
            accounts=open_accounts(self.advertisers),
            last_spend=jnp.zeros(self.advertisers, jnp.float32),
            exhausted=jnp.zeros(self.advertisers, bool),
            pending=jnp.zeros((self.ticks, self.advertisers), jnp.float32) if self.delay else None,
            history=empty_history(self.ticks),
            seen=auctionnet_view.nothing(self.ticks) if self.observation == "auctionnet" else None,
            score=jnp.float32(0.0),
        )
        return self._observe(state, params), state

    def step(self, key: Key, state: State, action: jax.Array, params: setup.Params) -> StepResult:
        """Clears one tick at the multiplier that ``action`` names."""
        del key  # an episode's luck is fixed at reset
        return self._advance(state, action, None, params)[0]

    def offers(self, state: State, params: setup.Params) -> tick_of.Offers:
        """What every advertiser is told of the coming tick's impressions."""
        return tick_of.offers(self, state, params)

    def step_bids(
        self, key: Key, state: State, action: jax.Array, bids: jax.Array, params: setup.Params
    ) -> tuple[StepResult, tick_of.Outcome]:
        """`step` in which some advertisers bid on single impressions (see `offers`).

        Args:
            key: Not used: an episode's luck is fixed at reset.
            state: The state.
            action: ``[1]`` float32, for the seat if its row of bids is NaN.
            bids: ``[N, tick_impressions]`` float32 currency units per billable unit; a row of NaN leaves that advertiser to
                its own control law.
            params: The parameters.

        Raises:
            ValueError: ``bids`` has another shape.
        """
        del key
        wanted = (self.advertisers, self.tick_impressions)
        if jnp.shape(bids) != wanted:
            raise ValueError(f"bids must have shape {wanted} (advertisers, tick_impressions), got {jnp.shape(bids)}")
        result, outcome = self._advance(state, action, bids, params)
        assert outcome is not None
        return result, outcome

    def _advance(
        self, state: State, action: jax.Array, bids: jax.Array | None, params: setup.Params
    ) -> tuple[StepResult, tick_of.Outcome | None]:
        log_multiplier = jnp.clip(jnp.ravel(action)[0], -1.0, 1.0) * jnp.log(params.max_multiplier)
        reference = self._reference(params, state.target)
        control, levels, remaining = self._rivals(state, params)
        levels = levels.at[state.seat.index].set(log_multiplier)
        worth = self._worth(params)
        bidders = Bidders(
            scale=jnp.exp(levels) * reference * worth,
            factor=tick_of.factor(self, state, params),
            worth=worth,
            remaining=remaining,
        )
        unit = (reference * worth)[state.seat.index]
        outcome = None
        if bids is None:
            summary, record = tick_of.clear_tick(self, state, bidders, unit, params)
        else:
            summary, record, outcome = tick_of.clear_bids(self, state, bidders, unit, bids, params)
        accounts, pending = self._book(state, summary.totals, params)
        last = state.tick + 1 >= self.ticks
        new_score = self._score(accounts, state, last)
        reward = (new_score - state.score) / state.day_scale
        history = self._remember(state, summary, log_multiplier, params)
        state = dataclasses.replace(
            state,
            tick=state.tick + 1,
            control=control,
            accounts=accounts,
            last_spend=summary.totals.spend,
            exhausted=state.exhausted | summary.totals.short,
            pending=pending,
            history=history,
            seen=jax.tree.map(lambda old, new: old.at[state.tick].set(new), state.seen, summary.seen),
            score=new_score,
        )
        info = shown.tick_info(state, summary.totals, levels)
        if self.record:
            info |= {"opportunity_cost": record[0], "opportunity_value": record[1]}
        return StepResult(self._observe(state, params), state, reward, last, jnp.bool_(False), info), outcome

    def metrics(self, state: State, params: setup.Params) -> dict[str, jax.Array]:
        """The seat's accounts so far; float32 scalars, money in currency units, every conversion counted."""
        return shown.metrics(state)

    def bound(self, infos: dict[str, jax.Array], state: State, params: setup.Params) -> dict[str, jax.Array]:
        """Hindsight bounds of a recorded episode (``record=True``), prices as the run met them.

        Args:
            infos: Stacked ``info`` of the episode, arrays ``[T, ...]``.
            state: Its last state.
            params: Its parameters.
        """
        if "opportunity_cost" not in infos:
            return {}
        flat = [
            infos[name].transpose(0, 2, 1).reshape(-1, self.slots) for name in ("opportunity_cost", "opportunity_value")
        ]
        best = hindsight(flat[0], flat[1], state.seat.budget, state.seat.target)
        return {"hindsight_value": best.value, "hindsight_cost": best.cost, "hindsight_score": best.score}

    def render(self, state: State, params: setup.Params) -> np.ndarray:
        """Spend, price, win rate and CPA of the seat over the day, ``[H, W, 3]`` uint8."""
        from adarena.envs.render import draw_day

        return draw_day(state, params)

    # -- the parts of a step ------------------------------------------------------------------------------------------

    def _rivals(self, state: State, params: setup.Params) -> tuple[rivals.Control, jax.Array, jax.Array]:
        """Memory of the control laws, log multipliers ``[N]`` and money left ``[N]`` for the coming tick."""
        control, levels = rivals.rival_step(state.control, self._signals(state, params), state.kind)
        remaining = jnp.where(state.exhausted, 0.0, jnp.maximum(state.budget - state.accounts.spend, 0.0))
        return control, levels, remaining

    def _reference(self, params: setup.Params, target: jax.Array) -> jax.Array:
        """Currency units per unit of value that multiplier 1 bids, ``[N]``."""
        return params.base_target if self.objective == "budget" else target

    def _worth(self, params: setup.Params) -> jax.Array:
        return params.base_worth if self.objective == "roas" else jnp.ones_like(params.base_worth)

    def _signals(self, state: State, params: setup.Params) -> rivals.Signals:
        daily = params.bank.daily
        index = jnp.arange(self.ticks)
        accounts = state.accounts
        known = accounts.reported > 0.0
        reference = self._reference(params, state.target)
        over = accounts.spend / jnp.where(known, reference * accounts.reported, 1.0)
        shape = jnp.ones(self.advertisers, jnp.float32)
        return rivals.Signals(
            started=shape * (state.tick > 0),
            budget_left=1.0 - accounts.spend / state.budget,
            traffic_left=shape * jnp.where(index >= state.tick, daily, 0.0).sum(),
            spend_last=state.last_spend / state.budget,
            traffic_last=shape * jnp.where(index == state.tick - 1, daily, 0.0).sum(),
            cost_over_target=jnp.where(known, over, 1.0),
        )

    def _book(self, state: State, result: TickResult, params: setup.Params) -> tuple[Accounts, jax.Array | None]:
        old = state.accounts
        reported, pending = result.value, None
        if self.delay:
            assert state.pending is not None
            lags = params.delay_distribution[:, None] * result.value[None, :]
            reported = state.pending[0] + lags[0]
            pending = jnp.concatenate([state.pending[1:], jnp.zeros_like(state.pending[:1])])
            pending = pending.at[:-1].add(lags[1:])
        accounts = Accounts(
            spend=jnp.minimum(old.spend + result.spend, state.budget),
            exposure=old.exposure + result.exposure,
            click=old.click + result.click,
            conversion=old.conversion + result.conversion,
            value=old.value + result.value,
            reported=old.reported + reported,
        )
        return accounts, pending

    def _score(self, accounts: Accounts, state: State, last: jax.Array) -> jax.Array:
        i = state.seat.index
        value = jnp.where(last, accounts.value[i], accounts.reported[i])
        return score(value, accounts.spend[i], state.seat.target)

    def _remember(
        self, state: State, summary: tick_of.TickSummary, log_multiplier: jax.Array, params: setup.Params
    ) -> History:
        i = state.seat.index
        seen = History(
            offered=summary.offered / params.winnable,
            exposure=summary.totals.exposure[i],
            cost=summary.totals.spend[i],
            value=summary.totals.value[i],
            potential=summary.potential / params.winnable,
            least_price=summary.least_price / params.winnable,
            log_multiplier=log_multiplier,
            landscape_value=summary.landscape_value,
            landscape_cost=summary.landscape_cost,
        )
        return jax.tree.map(lambda old, new: old.at[state.tick].set(new), state.history, seen)

    def _observe(self, state: State, params: setup.Params) -> jax.Array:
        i = state.seat.index
        value_now = tick_of.value_now(self, state, params, self._worth(params))
        reference = self._reference(params, state.target)[i]
        reported, spend = state.accounts.reported[i], state.accounts.spend[i]
        over = spend / jnp.maximum(reference * reported, 1e-9)
        outlook = Outlook(
            tick=state.tick,
            daily=params.bank.daily,
            daily_impressions=params.daily_impressions * state.day_scale,
            volume_now=state.volume[jnp.minimum(state.tick, self.ticks - 1)],
            value_now=value_now,
            budget_left=1.0 - spend / state.seat.budget,
            cost_over_target=jnp.where(reported > 0.0, over, 1.0),
            progress=reported * reference / state.seat.budget,
        )
        if state.seen is not None:
            return auctionnet_view.observe(outlook, state.history, state.seen, self.ticks)
        return observe(state.seat, outlook, state.history, reference, self.categories)
