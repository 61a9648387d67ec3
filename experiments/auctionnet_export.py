"""A logged dataset as AuctionNet's RL training table, ``*-rlData.csv``: one row an episode and tick.

Its state is that simulator's sixteen numbers, which the logged observation need not hold. So the logged actions are played
again in the same markets with ``observation="auctionnet"``; the rewards must come out as logged, else nothing is written.
Columns are those of `adarena.envs.data.auctionnet_training.TRAINING_SCHEMA`, with

    deliveryPeriodIndex  number of the episode
    advertiserNumber     the seat; every other advertiser is simulated and has no rows
    action               the tick's bids over the predictions bid on: bid multiplier x target; 0 once the money is spent
    reward               conversions of the tick (expectations where the market books those)
    reward_continuous    predictions of what was exposed: the same number where expectations are booked
    done                 1 in the last tick, and where less than 0.1 currency units are left when a tick begins

The table has no room for log-densities; they stay in the dataset.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from tqdm import tqdm

from adarena.agents.offline.episodes import Episodes
from adarena.envs.core import Env, episode_keys
from adarena.envs.data.auctionnet_training import TRAINING_SCHEMA, write_training
from adarena.experiments import logged
from adarena.experiments.store import RunFolderError

_BROKE = 0.1  # currency units below which AuctionNet stops a bidder


class _Replayed(NamedTuple):
    """What playing ``[E]`` episodes again shows; ``[E, T]`` unless said.

    Attributes:
        states: ``[E, T, 16]``.
        rewards: As logged.
        bid: Sum of the seat's bids in the tick, currency units.
        potential: Sum of its predictions.
        value: Its conversions.
        seat: ``[E]`` int32.
        category: ``[E]`` int32.
        budget: ``[E]`` currency units.
        target: ``[E]`` currency units a conversion.
        cost: ``[E]`` currency units spent in the day.
    """

    states: Any
    rewards: Any
    bid: Any
    potential: Any
    value: Any
    seat: Any
    category: Any
    budget: Any
    target: Any
    cost: Any


def export(path: str | os.PathLike[str], target: str | os.PathLike[str], *, chunk: int = 64) -> Path:
    """Writes the training table of a dataset, part by part; it appears whole or not at all, ``TARGET.sha256`` beside it.

    Args:
        path: Folder of a finished dataset of ``adarena/AutoBid-v0``.
        target: The file to write, ``.csv``.
        chunk: Episodes at a time.

    Returns:
        The file.

    Raises:
        ValueError: ``target`` is no CSV, or the dataset's objective has no conversions or no CPA.
        RunFolderError: The dataset is damaged or not finished, or the market is not the one that was logged.
    """
    target = Path(target)
    if target.suffix != ".csv":
        raise ValueError(f"target must end in .csv, got {target.name!r}")
    folder, about = logged.open_dataset(path)
    env, params = about.make(observation="auctionnet")
    if env.objective != "cpa":  # type: ignore[attr-defined]
        raise ValueError(f"objective must be 'cpa' for AuctionNet's table, got {env.objective!r}")  # type: ignore[attr-defined]
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp.csv")
    part_file = draft.with_suffix(".part.csv")
    try:
        with draft.open("wb") as whole:
            for number in tqdm(range(about.parts), desc=f"writing {target.name}", unit="part", disable=None, delay=2.0):
                part = logged.read_part(folder, number)
                for first, episodes, played in _chunks(env, params, part, chunk):
                    _check(episodes, played, folder.path.name)
                    write_training(_table(played, number * about.part_episodes + first), part_file)
                    with part_file.open("rb") as lines:
                        header = lines.readline()
                        if whole.tell() == 0:
                            whole.write(header)
                        whole.write(lines.read())
            whole.flush()
            os.fsync(whole.fileno())
        with draft.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
        os.replace(draft, target)
        target.with_name(f"{target.name}.sha256").write_text(f"{digest}  {target.name}\n", encoding="utf-8")
    finally:
        draft.unlink(missing_ok=True)
        part_file.unlink(missing_ok=True)
    return target


def _chunks(env: Env, params: Any, part: Episodes, chunk: int) -> Iterator[tuple[int, Episodes, _Replayed]]:
    """The part's episodes a chunk at a time (the last call repeats an episode), played again."""
    size = min(chunk, part.count)
    for start in range(0, part.count, size):
        at = np.minimum(np.arange(start, start + size), part.count - 1)
        played = _replay(env, params, logged.case_keys(part.seeds[at]), part.actions[at])
        kept = min(size, part.count - start)
        yield start, part.take(at[:kept]), _Replayed(*(np.asarray(x)[:kept] for x in played))


@functools.partial(jax.jit, static_argnums=0)
def _replay(env: Env, params: Any, keys: jax.Array, actions: jax.Array) -> _Replayed:
    def episode(key: jax.Array, actions: jax.Array) -> _Replayed:
        obs, state = env.reset(key, params)

        def tick(carry: Any, given: tuple[jax.Array, jax.Array]) -> tuple[Any, Any]:
            obs, state = carry
            result = env.step(given[0], state, given[1], params)
            return (result.obs, result.state), (obs, result.reward)

        steps = episode_keys(key, env.max_steps(params))[0]
        (_, state), (states, rewards) = jax.lax.scan(tick, (obs, state), (steps, actions))
        seat = state.seat
        return _Replayed(
            *(states, rewards, state.seen.bid, state.history.potential, state.history.value),
            *(seat.index, seat.category, seat.budget, seat.target, state.accounts.spend[seat.index]),
        )

    return jax.vmap(episode)(keys, jnp.asarray(actions))


def _check(episodes: Episodes, played: _Replayed, name: str) -> None:
    """Refuses to write a market other than the one that was logged."""
    if not np.allclose(played.rewards, episodes.rewards, rtol=1e-4, atol=1e-5):
        worst = float(np.abs(played.rewards - episodes.rewards).max())
        raise RunFolderError(f"{name} was logged in another market: played again, a reward differs by {worst:.3g}")


def _table(played: _Replayed, first: int) -> pl.DataFrame:
    """Rows of `TRAINING_SCHEMA`, episode by episode; ``first`` is the number of the first."""
    episodes, ticks, _ = played.states.shape
    last = np.arange(ticks) == ticks - 1
    money = played.states[..., 1].astype(np.float64) * played.budget[:, None]
    done = last | (money < _BROKE)
    following = np.concatenate([played.states[:, 1:], np.zeros_like(played.states[:, :1])], axis=1)
    action = np.where(played.potential > 0.0, played.bid / np.maximum(played.potential, 1e-30), 0.0)

    def each(values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(values[:, None], (episodes, ticks))

    columns = {
        "deliveryPeriodIndex": each(first + np.arange(episodes)),
        "advertiserNumber": each(played.seat),
        "advertiserCategoryIndex": each(played.category),
        "budget": each(played.budget),
        "CPAConstraint": each(played.target),
        "realAllCost": each(played.cost),
        "realAllConversion": each(played.value.sum(axis=1, dtype=np.float64)),
        "timeStepIndex": np.broadcast_to(np.arange(ticks), (episodes, ticks)),
        "action": action,
        "reward": played.value,
        "reward_continuous": played.value,
        "done": done.astype(np.int64),
    }
    states = played.states.reshape(-1, 16).astype(np.float64)
    given = {name: pl.Series(name, np.ravel(x)).cast(TRAINING_SCHEMA[name]) for name, x in columns.items()}
    given["state"] = pl.Series("state", states, TRAINING_SCHEMA["state"])
    there = pl.Series(~np.ravel(done))
    after = pl.Series("next_state", following.reshape(-1, 16).astype(np.float64), TRAINING_SCHEMA["next_state"])
    table = pl.DataFrame([*given.values(), after, there.alias("_there")])
    masked = pl.when(pl.col("_there")).then(pl.col("next_state")).alias("next_state")
    return table.with_columns(masked).select(list(TRAINING_SCHEMA))
