"""``adarena/Lifecycle-v0``: one campaign from launch to breakout, steered by an automatic placement agent."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from adarena.envs import lifecycle_books as books
from adarena.envs import lifecycle_checks as checks
from adarena.envs import lifecycle_phases as phases_of
from adarena.envs import lifecycle_report as report
from adarena.envs import lifecycle_setup as setup
from adarena.envs import lifecycle_tick as tick_of
from adarena.envs.core import Entry, Env, Key, StepResult, box_of
from adarena.envs.lifecycle_state import Creatives, History, Last, State
from adarena.envs.lifecycle_view import entries, observe
from adarena.envs.market.auction import AuctionRules
from adarena.envs.market.wear import aged, forget


@dataclasses.dataclass(frozen=True)
class Lifecycle(Env):
    """One campaign's life of ``days`` days against ``rivals`` rivals; the seat is the platform's placement agent.

    The campaign has ``V`` creatives whose click rates are hidden, a conversion rate that is hidden too, a pool of
    users that tire of it, and an advertiser who raises the budget where the campaign does well. It goes through the
    phases of `adarena.envs.lifecycle_phases`: understanding, cold start, stable, breakout.

    **Action**: float32 ``[3 + V]`` in [-1, 1]: multiplier (``max_multiplier ** action``), exploration share (0 to
    ``max_exploration``), audience width (``min_width`` to 1), and one number a creative, the mix being the softmax of
    ``mix_sharpness`` times them. The campaign bids ``multiplier x target x predicted value`` on every impression of
    its audience, predicted value being the posterior mean of the mix's click rate x that of the conversion rate x the
    user's match. On the exploration share of the impressions creatives are served in proportion to the spread of what
    is believed of them instead of by the mix, and predictions are taken ``optimism`` standard deviations up.

    **Audience**: users lie at distances 0 to 1 from the campaign's core; those beyond the width see nothing of it.
    The conversion rate falls with distance, which predictions do not know: they see it, slowly, in what converts.
    Each ring of users tires by its own exposures (`adarena.envs.market.wear.fatigue`) and forgets them in days. So
    within a width the cost of one more conversion rises with spend; widening brings rested users who convert less.

    **Creatives** grow old by being served, whoever sees them, so the best one does not stay the best.

    **Observation**: float32, one entry a name, see `adarena.envs.lifecycle_view.entries`. It holds what the platform
    knows.

    **Reward**: float32, the change of the running score, conversions x min(1, (target / cost per conversion)^2).
    Undiscounted rewards add up to the score of the life. The running score counts what has been reported; the last
    tick settles the rest.

    **Budgets**: each day has its own; an advertiser, the campaign included, bids until the first charge that it
    cannot pay and then pauses for the day. What is left lapses at midnight.

    **End**: ``terminated`` after ``days x ticks_per_day`` ticks. Never ``truncated``.

    **Randomness**: fixed at ``reset`` by named streams (``traffic``, ``exploration``, ``response``, ``rivals``,
    ``campaign``). Conversions are a Poisson process in their own cumulative expectation whose arrivals are drawn at
    reset, so two policies that earn the same expectation have the same luck. The key of ``step`` is not used.

    Attributes:
        rivals: ``N - 1``.
        creatives: ``V``.
        days: Days of the campaign's life.
        ticks_per_day: Ticks of a day of 24 hours.
        impressions: ``M``, impressions simulated a tick; each stands for (real impressions / M).
        slots: ``K``.
        mechanism: ``"gsp"``, ``"first_price"``, ``"second_price"`` or ``"vcg"``; charged by exposed impression.
        rings: Rings of the audience that tire separately, equally wide.
        blocks: Blocks of ``M`` impressions in the bank.
        bank_seed: Seed of the bank.
        arrivals: ``C``, conversions whose luck is drawn; those beyond it come as expected.
        delay: Whether conversions are reported with a delay (``delay_distribution`` of the parameters).
        record: Whether ``info`` carries what every slot would have cost (for `bound`).
    """

    rivals: int = 15
    creatives: int = 8
    days: int = 30
    ticks_per_day: int = 8
    impressions: int = 64
    slots: int = 3
    mechanism: str = "gsp"
    rings: int = 8
    blocks: int = 256
    bank_seed: int = 0
    arrivals: int = 1024
    delay: bool = True
    record: bool = False

    NESTED: ClassVar[dict[str, str]] = dict.fromkeys(checks.TERMS, "terms")

    def __post_init__(self) -> None:
        """Refuses sizes and names that no campaign has."""
        checks.check_sizes(self)

    @property
    def OBSERVATION(self) -> tuple[Entry, ...]:  # type: ignore[override]  # noqa: N802
        """The entries of the observation, in order."""
        return entries(self.creatives)

    @property
    def ticks(self) -> int:
        """``T``, ticks of the campaign's life."""
        return self.days * self.ticks_per_day

    @property
    def rules(self) -> AuctionRules:
        """The auction's static part."""
        return AuctionRules(self.mechanism, self.slots)

    def default_params(self) -> setup.Params:
        """Numbers of the default campaign, with its bank of impressions."""
        return setup.default_params(self)

    def validate_changes(self, changes: dict[str, Any]) -> dict[str, Any]:
        """Checks and converts numeric changes (see `adarena.envs.registry.make`)."""
        return checks.validate_changes(self, changes)

    def observation_space(self, params: setup.Params) -> gymnasium.spaces.Box:
        """Bounds of every entry."""
        return box_of(self.OBSERVATION)

    def action_space(self, params: setup.Params) -> gymnasium.spaces.Box:
        """``Box(-1, 1, (3 + V,))``."""
        return gymnasium.spaces.Box(-1.0, 1.0, (3 + self.creatives,), np.float32)

    def max_steps(self, params: setup.Params) -> int:
        """``days x ticks_per_day``."""
        return self.ticks

    def reset(self, key: Key, params: setup.Params) -> tuple[jax.Array, State]:
        """Draws a campaign, its rivals and its luck, and launches it."""
        streams = {name: jax.random.fold_in(key, n) for n, name in enumerate(setup.STREAMS)}
        campaign = setup.draw_campaign(self, streams["campaign"], params)
        zero, creatives, ticks = jnp.float32(0.0), jnp.zeros(self.creatives), jnp.zeros(self.ticks)
        state = State(
            tick=jnp.int32(0),
            campaign=campaign,
            luck=setup.draw_luck(self, streams, params),
            phases=phases_of.launch(),
            creatives=Creatives(creatives, creatives, creatives, creatives),
            ring=jnp.zeros(self.rings),
            expected=zero,
            occurred=jnp.full(self.arrivals, self.ticks, jnp.int32),
            history=History(ticks, ticks, ticks),
            steady=jnp.zeros(self.days, bool),
            stable_value=zero,
            daily_budget=campaign.budget,
            budgets=campaign.budget,
            spent=jnp.zeros(self.rivals + 1),
            exhausted=jnp.zeros(self.rivals + 1, bool),
            last=Last(zero, zero, zero, jnp.full(self.creatives, 1.0 / self.creatives, jnp.float32), zero, zero, zero),
            served_quality=zero,
            best_quality=zero,
            score=zero,
        )
        return self._observe(state, params), state

    def step(self, key: Key, state: State, action: jax.Array, params: setup.Params) -> StepResult:
        """Clears one tick under the controls that ``action`` names."""
        del key  # an episode's luck is fixed at reset
        controls = tick_of.controls_of(action, params)
        here = tick_of.scene(self, state, params)
        known = books.known_by_now(self, state, params)
        belief = books.belief(self, state, params, known)
        planned = tick_of.plan(here, controls, belief, state.campaign.target, params.optimism)
        outcome = tick_of.clear(self, state, params, here, planned)
        running = state.tick < self.ticks
        before = state
        state = self._book(state, controls, outcome, params)
        state = self._judge(state, params)
        state = dataclasses.replace(state, score=books.running_score(self, state))
        reward = jnp.where(running, state.score - before.score, 0.0)
        info = report.tick_info(self, before, state, controls, belief, outcome, params)
        if self.record:
            info |= report.opportunity(before, outcome, here, params)
        last = state.tick >= self.ticks
        return StepResult(self._observe(state, params), state, reward, last, jnp.bool_(False), info)

    def metrics(self, state: State, params: setup.Params) -> dict[str, jax.Array]:
        """The campaign's life so far; float32 scalars, see `adarena.envs.lifecycle_report.metrics`."""
        return report.metrics(self, state, params)

    def bound(self, infos: dict[str, jax.Array], state: State, params: setup.Params) -> dict[str, jax.Array]:
        """Bounds of a recorded episode (``record=True``), see `adarena.envs.lifecycle_report.bound`."""
        return report.bound(self, infos, state, params) if self.record else {}

    def render(self, state: State, params: setup.Params) -> np.ndarray:
        """Money, cost per conversion, creatives and wear so far, ``[H, W, 3]`` uint8."""
        from adarena.envs.lifecycle_render import draw_life

        return draw_life(self, state, params)

    # -- the parts of a step ------------------------------------------------------------------------------------------

    def _book(self, state: State, controls: tick_of.Controls, outcome: tick_of.Outcome, params: setup.Params) -> State:
        """The state after a tick's money, exposures, clicks and conversions."""
        tick, creatives, day = state.tick, state.creatives, self.ticks_per_day
        kept = forget(1.0, params.memory_half_life * day)
        expected = state.expected + jnp.where(tick < self.ticks, outcome.conversions, 0.0)
        arrived = state.luck.arrivals <= expected
        beyond = jnp.maximum(expected - state.luck.arrivals[-1], 0.0)
        surplus = beyond - jnp.maximum(state.expected - state.luck.arrivals[-1], 0.0)
        clicks = tick_of.draw_clicks(self, state, outcome.clicks)
        exposure = outcome.exposure.sum()
        share = jnp.where(exposure > 0.0, outcome.by_creative / jnp.maximum(exposure, 1e-9), controls.mix)
        here = tick_of.scene(self, state, params)
        in_ring = here.ring[None, :] == jnp.arange(self.rings)[:, None]
        ring = (state.ring + (in_ring * outcome.exposure).sum(axis=1)) * forget(1.0, params.frequency_half_life * day)
        served = tick_of.quality_now(state, params)
        return dataclasses.replace(
            state,
            tick=tick + 1,
            creatives=Creatives(
                exposure=creatives.exposure + outcome.by_creative,
                trials=kept * (creatives.trials + outcome.trials),
                clicks=kept * (creatives.clicks + clicks),
                age=aged(creatives.age, jnp.where(exposure > 0.0, share, 0.0), 1.0 / day),
            ),
            ring=ring,
            expected=expected,
            occurred=jnp.where(arrived & (state.occurred >= self.ticks), jnp.minimum(tick, self.ticks), state.occurred),
            history=History(
                cost=state.history.cost.at[tick].set(outcome.result.spend[0]),
                clicks=state.history.clicks.at[tick].set(clicks.sum()),
                surplus=state.history.surplus.at[tick].set(surplus),
            ),
            spent=state.spent + outcome.result.spend,
            exhausted=state.exhausted | outcome.result.short,
            last=report.last_tick(controls, outcome, share),
            served_quality=state.served_quality + outcome.by_creative @ served,
            best_quality=state.best_quality + exposure * served.max(),
        )

    def _judge(self, state: State, params: setup.Params) -> State:
        """The state after the tick's end has been judged: phases, and at midnight a new day's budget."""
        day, tick = self.ticks_per_day, state.tick
        over = (tick % day == 0) & (tick <= self.ticks)
        today = jax.lax.dynamic_slice(state.history.cost, (jnp.maximum(tick - day, 0),), (day,))
        steady = phases_of.keeps_plan(
            today, params.bank.daily, state.daily_budget, params.pacing_low, params.pacing_high
        )
        state = dataclasses.replace(
            state, steady=jnp.where((jnp.arange(self.days) == tick // day - 1) & over, steady, state.steady)
        )
        known = books.known_by_now(self, state, params)
        evidence, stable = books.evidence(self, state, params, known)
        was, phases = state.phases, phases_of.advance(state.phases, evidence, tick)
        phases = jax.tree.map(lambda old, new: jnp.where(tick <= self.ticks, new, old), was, phases)
        newly = phases.passed[phases_of.STABLE] & ~was.passed[phases_of.STABLE]
        factor = phases_of.budget_factor(phases, params.failed_budget, params.stable_budget, params.breakout_budget)
        budget = jnp.where(over, state.campaign.budget * factor, state.daily_budget)
        return dataclasses.replace(
            state,
            phases=phases,
            stable_value=jnp.where(newly, stable.estimated / params.stable_days, state.stable_value),
            daily_budget=budget,
            budgets=state.budgets + jnp.where(over & (tick < self.ticks), budget, 0.0),
            spent=jnp.where(over, 0.0, state.spent),
            exhausted=state.exhausted & ~over,
        )

    def _observe(self, state: State, params: setup.Params) -> jax.Array:
        known = books.known_by_now(self, state, params)
        return observe(self, state, params, known, books.belief(self, state, params, known))
