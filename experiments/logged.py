"""Logged episodes on disk: what ``adarena collect`` writes, and `load`, which reads it back and verifies it.

A dataset is a run folder (see `adarena.experiments.store`)::

    config.json        how it was collected: ``CollectConfig``, canonical JSON
    manifest.json      versions, seed layout, command, status, and the SHA-256 of every file below
    about.json         what the numbers mean: `About`
    part-00000.npz     episodes 0 ... P-1, one array a field of `adarena.agents.offline.episodes.Episodes`
    part-00001.npz     episodes P ... 2P-1, and so on; the last part may be shorter

Arrays of a part, ``E`` episodes of ``T`` steps, little-endian, not compressed:

    observations  [E, T + 1, O] float32  as the policy saw them, not normalised; entries are named in about.json
    actions       [E, T, A]     float32  as the environment was given them, inside its bounds
    rewards       [E, T]        float32  in the environment's unit
    terminated    [E, T]        bool     true at the last step alone, and only if the task itself ended there
    log_probs     [E, T]        float32  natural log of the density of the action, in the space of ``actions``, under the
                                         policy that chose it, given all that this policy had seen
    behaviour     [E]           int32    number of that policy in ``policies`` of about.json
    seeds         [E]           int64    number of the case, ``dataset's seed * 2^32 + number of the episode``

A case's number fixes its market (traffic, values, seat, budget, target, rivals, luck): `case_keys` turns it into the reset key.
Datasets of one seed meet the same cases, whatever their tier. The keys come from a stream of their own (`LOGGED`), so no
logged market is one of tuning or evaluation, whatever their seeds.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adarena import envs
from adarena.agents.offline.episodes import Episodes
from adarena.envs.core import Entry, Env
from adarena.experiments.store import RunFolder, RunFolderError

LOGGED = 0x106ED
"""Stream of logged markets, ``fold_in(key(seed), LOGGED)``; those of `adarena.experiments.protocol` are 1 and 2, and training
splits its key, which gives what folding in 0, 1, 2 would."""

KIND, ABOUT, SCHEMA = "CollectConfig", "about.json", 1
_FIELDS = tuple(field.name for field in dataclasses.fields(Episodes))


@dataclasses.dataclass(frozen=True)
class About:
    """What the numbers of a dataset mean.

    Attributes:
        name: For people and exports, ``"autobid/medium"``.
        env: Registered name of the environment.
        changes: What was changed from its defaults: ``adarena.envs.make(env, **changes)`` rebuilds it with its parameters.
        observation: Entries of the observation, in order.
        policies: Names of the behaviour policies, in the order of their numbers.
        digests: Checksum of each policy's numbers (`adarena.agents.checkpoint.digest`).
        episodes: Episodes of the whole dataset.
        part_episodes: Episodes a part.
        steps: Steps an episode.
        schema: Version of the layout.
    """

    name: str
    env: str
    changes: dict[str, Any]
    observation: tuple[Entry, ...]
    policies: tuple[str, ...]
    digests: tuple[str, ...]
    episodes: int
    part_episodes: int
    steps: int
    schema: int = SCHEMA

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-self.episodes // self.part_episodes)

    def make(self, **changes: Any) -> tuple[Env, Any]:
        """The environment and its parameters; ``changes`` to it on top."""
        return envs.make(self.env, **{**self.changes, **changes})

    def write(self, path: Path) -> None:
        """Writes it as JSON."""
        content = dataclasses.asdict(self) | {"observation": [entry._asdict() for entry in self.observation]}
        path.write_text(json.dumps(content, sort_keys=True, indent=2, allow_nan=False) + "\n", encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Logged:
    """A dataset in memory.

    Attributes:
        episodes: The episodes.
        about: What their numbers mean.
        config: Content of ``config.json``.
        manifest: Content of ``manifest.json``.
    """

    episodes: Episodes
    about: About
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]


def case_keys(seeds: np.ndarray) -> jax.Array:
    """``[E]`` reset keys of the cases ``[E]`` int64.

    Raises:
        ValueError: A number is negative or beyond 2^63.
    """
    numbers = np.asarray(seeds)
    if numbers.dtype != np.int64 or (numbers < 0).any():
        raise ValueError(f"seeds must be int64 and not negative, got {numbers.dtype} {numbers.min(initial=0)}")
    high, low = (numbers >> 32).astype(np.uint32), (numbers & 0xFFFFFFFF).astype(np.uint32)
    return jax.vmap(_case_key)(jnp.asarray(high), jnp.asarray(low))


def _case_key(seed: jax.Array, episode: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), LOGGED), episode)


def part_name(number: int) -> str:
    """File of a part."""
    return f"part-{number:05d}.npz"


def write_part(folder: RunFolder, number: int, episodes: Episodes) -> Path:
    """Writes a part whole and records its SHA-256. The same episodes give the same bytes."""
    arrays = {name: getattr(episodes, name) for name in _FIELDS}
    return folder.write_file(part_name(number), lambda path: np.savez(path, allow_pickle=False, **arrays))


def read_about(folder: RunFolder) -> About:
    """What the dataset says of itself.

    Raises:
        RunFolderError: It is no dataset, or of another schema.
    """
    if folder.config["class"] != KIND or ABOUT not in folder.manifest["files"]:
        raise RunFolderError(f"{folder.path.name} is no dataset of adarena collect: it lacks {ABOUT}")
    content = json.loads((folder.path / ABOUT).read_text(encoding="utf-8"))
    if content.get("schema") != SCHEMA:
        raise RunFolderError(f"{ABOUT} must have schema {SCHEMA}, got {content.get('schema')!r}")
    content["observation"] = tuple(Entry(**entry) for entry in content["observation"])
    fields: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in content.items()}
    return About(**fields)


def read_part(folder: RunFolder, number: int) -> Episodes:
    """One part of a dataset whose files are verified (`RunFolder.open`).

    Raises:
        RunFolderError: It is missing, or holds something else than episodes; the message names the file.
    """
    name = part_name(number)
    if name not in folder.manifest["files"]:
        raise RunFolderError(f"{name} is missing from {folder.path.name}: collect the rest with --resume")
    try:
        with np.load(folder.path / name, allow_pickle=False) as arrays:
            return Episodes(**{field: arrays[field] for field in _FIELDS})
    except Exception as error:  # zip and NumPy raise many kinds for what is no such file
        raise RunFolderError(f"{name} holds no episodes: {error}") from error


def open_dataset(path: str | os.PathLike[str]) -> tuple[RunFolder, About]:
    """Opens a finished dataset and verifies every file of it.

    Raises:
        RunFolderError: No such folder; a file is missing, torn or edited (the message names it); or not all is collected.
    """
    folder = RunFolder.open(path)
    about = read_about(folder)
    there = sum(part_name(number) in folder.manifest["files"] for number in range(about.parts))
    if there < about.parts:
        raise RunFolderError(
            f"{folder.path.name} is not finished: it has {there} of {about.parts} parts; collect the rest with --resume"
        )
    return folder, about


def load(path: str | os.PathLike[str]) -> Logged:
    """Loads a dataset, every file of it verified.

    Args:
        path: Its folder.

    Raises:
        RunFolderError: No such folder; a file is missing, torn or edited (the message names it); or not all is collected.
    """
    folder, about = open_dataset(path)
    parts = [read_part(folder, number) for number in range(about.parts)]
    whole = Episodes(*(np.concatenate([getattr(part, name) for part in parts]) for name in _FIELDS))
    if (whole.count, whole.steps) != (about.episodes, about.steps):
        raise RunFolderError(
            f"{ABOUT} says {about.episodes} episodes of {about.steps} steps, the parts hold {whole.count} of {whole.steps}"
        )
    return Logged(whole, about, folder.config, folder.manifest)


def transitions(episodes: Episodes) -> dict[str, np.ndarray]:
    """Rows of steps, ``N = E T``, under the names of ``d3rlpy.dataset.MDPDataset``'s arguments.

    ``MDPDataset(**transitions(load(path).episodes))`` is the exact way into d3rlpy; its ``get_minari`` is not (see
    `adarena.experiments.minari_export`). An episode that was cut has ``timeouts`` at its end, where d3rlpy knows no
    observation after the last step and leaves that step out.

    Returns:
        ``observations`` ``[N, O]``, ``actions`` ``[N, A]``, ``rewards`` ``[N, 1]``, ``terminals`` and ``timeouts`` ``[N]``,
        all float32.
    """
    ends = np.zeros_like(episodes.terminated)
    ends[:, -1] = True
    rows = {
        "observations": episodes.observations[:, :-1],
        "actions": episodes.actions,
        "rewards": episodes.rewards[..., None],
    }
    flat: dict[str, np.ndarray] = {name: x.reshape(-1, x.shape[-1]) for name, x in rows.items()}
    flat["terminals"] = episodes.terminated.reshape(-1).astype(np.float32)
    flat["timeouts"] = (ends & ~episodes.terminated).reshape(-1).astype(np.float32)
    return flat
