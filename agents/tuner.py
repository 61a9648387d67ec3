"""One tuner for every rule: the same search budget, on training markets, all of it recorded.

A rule is a ``flax.struct`` pytree whose parameters are leaves, so a whole population of candidates is one stacked
pytree and one call evaluates it. The search opens with a scrambled Sobol sequence, goes on with the cross-entropy
method (Rubinstein 1999; de Boer et al. 2005, "A tutorial on the cross-entropy method"), and re-scores its finalists on
markets that no candidate has met. Within a generation all candidates meet the same markets (common random numbers);
every generation meets fresh ones, so that nothing is tuned to the luck of a few.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from scipy.stats import qmc
from tqdm import tqdm

P = TypeVar("P")

Evaluate = Callable[[Any, jax.Array, dict[str, np.ndarray]], Any]
"""``evaluate(candidates, keys, cases) -> scores``: candidates is the policy with every leaf stacked ``[P, ...]``, keys
``[E]`` typed reset keys, cases name to ``[E]``; scores ``[P]``, larger is better, each a mean over the E episodes."""

DrawCases = Callable[[np.random.Generator, int], Mapping[str, Any]]
"""``draw_cases(rng, E)``: numeric fields of ``params`` for E training episodes, name to ``[E, ...]``."""

# Streams of randomness, apart from each other whatever the sizes.
_MARKETS, _SEARCH = 1, 2
_COLUMNS = ("stage", "generation", "candidate", "score", "episodes")  # of the history, beside the parameters
_ELITE = 0.25  # share of a generation that the next one is drawn around
_SMOOTHING = 0.8  # weight of the new elite against the old centre and spread
_LEAST_SPREAD = 0.01  # of a parameter's range: keeps the search alive until the end
_FINAL_SHARE = 0.25  # share of the budget that the finalists are re-scored with


@dataclasses.dataclass(frozen=True)
class Bound:
    """Range of one parameter of a rule.

    Attributes:
        low: Smallest value, in the parameter's own unit.
        high: Largest value.
        log: Whether the search moves on a logarithmic scale.
        default: A value that the search is sure to try, for example what practitioners use; the middle of the range,
            on its scale, when ``None``.
    """

    low: float
    high: float
    log: bool = False
    default: float | None = None


class TuneResult(NamedTuple):
    """What a search came to.

    Attributes:
        policy: The policy with the best parameters.
        parameters: Name to best value.
        score: Mean score of the best in the final round, on markets that the search had not met. The best of several
            finalists is a little flattered still; what a table says must come from evaluation markets.
        episodes: Episodes that were spent, at most the budget.
        history: One row a candidate: ``stage`` (``"opening"``, ``"search"``, ``"final"``), ``generation``,
            ``candidate``, a column for each parameter, ``score``, ``episodes``.
    """

    policy: Any
    parameters: dict[str, float]
    score: float
    episodes: int
    history: pl.DataFrame


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a budget of episodes is spent; see `plan_of`.

    Attributes:
        population: Candidates a generation.
        episodes: Episodes a candidate of a generation plays.
        generations: Generations, the opening among them.
        finalists: Candidates of the final round.
        final_episodes: Episodes a finalist plays.
    """

    population: int
    episodes: int
    generations: int
    finalists: int
    final_episodes: int

    @property
    def total(self) -> int:
        """Episodes in all."""
        return self.population * self.episodes * self.generations + self.finalists * self.final_episodes


def plan_of(budget: int, *, population: int = 32, episodes: int = 32, finalists: int = 8) -> Plan:
    """Divides a budget: a quarter for the finalists, the rest for generations.

    Args:
        budget: Episodes in all.
        population: Candidates a generation, at least 8.
        episodes: Episodes a candidate of a generation plays.
        finalists: Candidates of the final round.

    Raises:
        ValueError: A number is too small, or the budget buys fewer than two generations and a final round.
    """
    for name, value, least in (("population", population, 8), ("episodes", episodes, 1), ("finalists", finalists, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value!r}")
    if finalists > population:
        raise ValueError(f"finalists must not exceed population ({population}), got {finalists!r}")
    final_episodes = int(budget * _FINAL_SHARE) // finalists
    generations = int(budget - finalists * final_episodes) // (population * episodes)
    if generations < 2 or final_episodes < 1:
        least = math.ceil(max(2 * population * episodes / (1.0 - _FINAL_SHARE), finalists / _FINAL_SHARE))
        raise ValueError(
            f"budget must be at least {least} episodes for two generations of {population} candidates and "
            f"{episodes} episodes and a final round, got {budget!r}"
        )
    return Plan(population, episodes, generations, finalists, final_episodes)


def check_space(policy: Any, space: Mapping[str, Bound]) -> None:
    """Refuses a search space that does not fit a policy.

    Raises:
        TypeError: The policy is no pytree dataclass.
        ValueError: The space is empty, names something that is no scalar leaf of the policy, or a bound is impossible;
            the message names the parameter.
    """
    if not dataclasses.is_dataclass(policy) or isinstance(policy, type) or jax.tree_util.all_leaves([policy]):
        raise TypeError(f"policy must be a flax.struct.dataclass whose parameters are leaves, got {policy!r}")
    if not space:
        raise ValueError("space must name at least one parameter, got none: there is nothing to tune")
    leaves = [
        field.name
        for field in dataclasses.fields(policy)
        if field.metadata.get("pytree_node", True) and _is_float(getattr(policy, field.name))
    ]
    for name, bound in space.items():
        if name not in leaves:
            raise ValueError(f"space names {name!r}, which is no float scalar leaf of the policy; leaves are {leaves}")
        if name in _COLUMNS:
            raise ValueError(f"space must not name {name!r}, a column of the history; call the leaf something else")
        if not (math.isfinite(bound.low) and math.isfinite(bound.high)):
            raise ValueError(f"bounds of {name!r} must be finite, got low={bound.low!r}, high={bound.high!r}")
        if not bound.low < bound.high:
            raise ValueError(f"bounds of {name!r} must have low < high, got low={bound.low!r}, high={bound.high!r}")
        if bound.log and bound.low <= 0.0:
            raise ValueError(f"bounds of {name!r} must be positive on a log scale, got low={bound.low!r}")
        if bound.default is not None and not bound.low <= bound.default <= bound.high:
            raise ValueError(f"default of {name!r} must lie in [{bound.low}, {bound.high}], got {bound.default!r}")


def stack_candidates(policy: P, candidates: Mapping[str, np.ndarray]) -> P:
    """A population as one pytree: the named leaves take the candidates' values, the others are repeated.

    Args:
        policy: A ``flax.struct.dataclass``.
        candidates: Name to ``[P]``.

    Returns:
        The policy with every leaf ``[P, ...]``; named leaves are float32.
    """
    size = len(next(iter(candidates.values())))

    def repeat(leaf: Any) -> jax.Array:
        # Of a definite type: a population whose untuned leaves are weakly typed would compile anew.
        leaf = jnp.asarray(leaf, jnp.result_type(leaf))
        return jnp.broadcast_to(leaf, (size, *leaf.shape))

    repeated = jax.tree.map(repeat, policy)
    return dataclasses.replace(repeated, **{name: jnp.asarray(x, jnp.float32) for name, x in candidates.items()})


def tune(
    policy: P,
    space: Mapping[str, Bound],
    evaluate: Evaluate,
    *,
    budget: int,
    seed: int,
    markets: jax.Array | None = None,
    draw_cases: DrawCases | None = None,
    population: int = 32,
    episodes: int = 32,
    finalists: int = 8,
    label: str = "tuning",
) -> TuneResult:
    """Finds the parameters of a rule that score best.

    Rules that are tuned with equal ``budget``, ``population``, ``episodes`` and ``markets`` meet the same training
    markets in the same order. Same arguments, same result.

    Args:
        policy: A ``flax.struct.dataclass``; leaves outside the space stay as they are.
        space: Parameter to range.
        evaluate: Scores a population; see `Evaluate`. `adarena.experiments.rollout.rollout_seeds` does the work.
        budget: Episodes in all, final round included.
        seed: Seed of the search.
        markets: Typed key from which reset keys of the training markets come, from ``seed`` when ``None``. The caller
            sees to it that evaluation markets come from another.
        draw_cases: What else varies between training episodes; nothing when ``None``.
        population: Candidates a generation.
        episodes: Episodes a candidate of a generation plays.
        finalists: Candidates of the final round.
        label: What the progress bar, shown after two seconds, says.

    Raises:
        TypeError: As `check_space`, or ``markets`` is no typed key.
        ValueError: As `check_space` and `plan_of`; or ``evaluate`` gives scores of a wrong shape or not finite.
    """
    check_space(policy, space)
    plan = plan_of(budget, population=population, episodes=episodes, finalists=finalists)
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed!r}")
    if markets is None:
        markets = jax.random.fold_in(jax.random.key(seed), _MARKETS)
    if not isinstance(markets, jax.Array) or not jnp.issubdtype(markets.dtype, jax.dtypes.prng_key) or markets.shape:
        raise TypeError(f"markets must be one typed key (jax.random.key), got {markets!r}")
    search = _Search(policy, space, evaluate, plan, np.random.default_rng([seed, _SEARCH]), markets, draw_cases)
    with tqdm(total=plan.total, desc=label, unit="episode", delay=2.0, disable=None, leave=False) as bar:
        points = _opening(space, plan.population, search.rng)
        centre, spread = np.full(len(space), 0.5), np.full(len(space), 0.5)
        contenders: list[tuple[np.ndarray, np.ndarray]] = []
        for generation in range(plan.generations):
            stage = "opening" if generation == 0 else "search"
            scores = search.score(points, stage, generation, plan.episodes, bar)
            contenders.append((points, scores))
            centre, spread = _narrow(points, scores, centre, spread, first=generation == 0)
            points = _around(centre, spread, plan.population, search.rng)
        last = _finalists(contenders, centre, plan.finalists)
        scores = search.score(last, "final", plan.generations, plan.final_episodes, bar)
    parameters = {name: float(values[int(np.argmax(scores))]) for name, values in _values(space, last).items()}
    best = dataclasses.replace(policy, **{name: jnp.float32(x) for name, x in parameters.items()})  # type: ignore[type-var]
    return TuneResult(best, parameters, float(scores.max()), plan.total, pl.concat(search.history))


class _Search:
    """Scores populations of one rule and keeps the record."""

    def __init__(
        self,
        policy: Any,
        space: Mapping[str, Bound],
        evaluate: Evaluate,
        plan: Plan,
        rng: np.random.Generator,
        markets: jax.Array,
        draw_cases: DrawCases | None,
    ) -> None:
        self.policy, self.space, self.evaluate, self.plan, self.rng = policy, space, evaluate, plan, rng
        self.markets, self.draw_cases = markets, draw_cases
        self.history: list[pl.DataFrame] = []

    def score(self, points: np.ndarray, stage: str, generation: int, episodes: int, bar: Any) -> np.ndarray:
        """Scores of ``points [P, D]`` on the fresh markets of a generation, ``[P]`` float64."""
        values = _values(self.space, points)
        key = jax.random.fold_in(self.markets, generation)
        # Cases come from the markets' key, not from the search's generator: every rule meets the same ones.
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())
        cases = {name: np.asarray(x) for name, x in (self.draw_cases(rng, episodes) if self.draw_cases else {}).items()}
        stacked = stack_candidates(self.policy, values)
        scores = np.asarray(self.evaluate(stacked, jax.random.split(key, episodes), cases), np.float64)
        if scores.shape != (len(points),):
            raise ValueError(f"evaluate must return scores of shape ({len(points)},), got {scores.shape}")
        if not np.isfinite(scores).all():
            at = int(np.flatnonzero(~np.isfinite(scores))[0])
            what = ", ".join(f"{name}={x[at]:.6g}" for name, x in values.items())
            raise ValueError(f"evaluate must return finite scores, got {scores[at]} for {what}")
        columns: dict[str, Any] = {
            "stage": [stage] * len(points),
            "generation": np.full(len(points), generation, np.int32),
            "candidate": np.arange(len(points), dtype=np.int32),
            **values,
            "score": scores,
            "episodes": np.full(len(points), episodes, np.int32),
        }
        self.history.append(pl.DataFrame(columns))
        bar.update(len(points) * episodes)
        return scores


def _is_float(leaf: Any) -> bool:
    """Whether a leaf is one floating-point number."""
    if isinstance(leaf, float):
        return True
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic)) and not leaf.shape and leaf.dtype.kind == "f"


def _values(space: Mapping[str, Bound], points: np.ndarray) -> dict[str, np.ndarray]:
    """``[P, D]`` in the unit cube to name to ``[P]`` in the parameters' own units."""
    values = {}
    for column, (name, bound) in zip(points.T, space.items(), strict=True):
        low, high = (math.log(bound.low), math.log(bound.high)) if bound.log else (bound.low, bound.high)
        raw = low + column * (high - low)
        values[name] = np.clip(np.exp(raw) if bound.log else raw, bound.low, bound.high)
    return values


def _default(bound: Bound) -> float:
    """The default's place in [0, 1]."""
    if bound.default is None:
        return 0.5
    low, high, x = (math.log(v) if bound.log else v for v in (bound.low, bound.high, bound.default))
    return (x - low) / (high - low)


def _opening(space: Mapping[str, Bound], population: int, rng: np.random.Generator) -> np.ndarray:
    """The default and a scrambled Sobol sequence, ``[P, D]``."""
    points = qmc.Sobol(len(space), scramble=True, seed=rng).random_base2(math.ceil(math.log2(population)))[:population]
    points[0] = [_default(bound) for bound in space.values()]
    return points


def _narrow(
    points: np.ndarray, scores: np.ndarray, centre: np.ndarray, spread: np.ndarray, *, first: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Centre and spread ``[D]`` of the next generation, from the best of this one."""
    elite = points[np.argsort(-scores, kind="stable")[: max(2, int(len(points) * _ELITE))]]
    weight = 1.0 if first else _SMOOTHING
    centre = weight * elite.mean(axis=0) + (1.0 - weight) * centre
    spread = weight * elite.std(axis=0) + (1.0 - weight) * spread
    return centre, np.maximum(spread, _LEAST_SPREAD)


def _around(centre: np.ndarray, spread: np.ndarray, population: int, rng: np.random.Generator) -> np.ndarray:
    """The centre and normal draws about it, clipped to the cube, ``[P, D]``."""
    points = rng.normal(centre, spread, size=(population, len(centre)))
    points[0] = centre
    return np.clip(points, 0.0, 1.0)


def _finalists(contenders: list[tuple[np.ndarray, np.ndarray]], centre: np.ndarray, count: int) -> np.ndarray:
    """The last centre, the default, and the best of the generations, latest first; ``[count, D]``.

    Scores of different generations are not comparable (other markets), places within a generation are.
    """
    chosen = [centre, contenders[0][0][0]]
    orders = [points[np.argsort(-scores, kind="stable")] for points, scores in reversed(contenders)]
    for place in range(len(orders[0])):
        chosen += [order[place] for order in orders]
    unique: list[np.ndarray] = []
    for point in chosen:
        if len(unique) < count and not any(np.array_equal(point, other) for other in unique):
            unique.append(np.clip(point, 0.0, 1.0))
    return np.stack(unique)
