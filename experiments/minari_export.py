"""A logged dataset as a local Minari dataset: ``minari.load_dataset("adarena/autobid/medium-v0")``.

It lies where Minari keeps its datasets (``MINARI_DATASETS_PATH``, or ``~/.minari/datasets``). An episode has ``T + 1``
observations and, as ``infos``, the constants and series of `adarena.experiments.logged` that Minari has no field for:

    log_prob   [T] float32  log-density of each action under the policy that chose it
    behaviour  [1] int32    number of that policy; names are in the dataset's description
    case       [1] int64    number of the case, also the episode's ``seed``: not a seed of Gymnasium's ``reset``

Minari's files carry no checksums of their own: `export` writes ``SHA256SUMS`` beside them, which `verify` (or
``sha256sum -c``) reads.

d3rlpy: ``d3rlpy.datasets.get_minari`` (2.8.0) joins the ``T + 1`` observations of each episode to columns of ``T`` actions and
rewards, so that after the first episode every observation stands one row further off per episode. Use
``MDPDataset(**adarena.experiments.logged.transitions(episodes))`` instead.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from adarena.agents.offline.episodes import Episodes
from adarena.experiments import logged
from adarena.experiments.store import RunFolder, RunFolderError

_SUMS = "SHA256SUMS"
_ROOT = "MINARI_DATASETS_PATH"


def require_minari() -> Any:
    """The library.

    Raises:
        ImportError: It, or the HDF5 it writes with, is not installed.
    """
    try:
        import h5py  # noqa: F401
        import minari
    except ImportError as error:
        raise ImportError("a Minari dataset needs the extra offline: pip install 'adarena[offline]'") from error
    return minari


def dataset_id(about: logged.About) -> str:
    """Minari's name of a dataset, ``"adarena/MARKET/TIER-v0"``."""
    return f"adarena/{about.name}-v0"


def export(path: str | os.PathLike[str], *, name: str = "") -> str:
    """Writes a dataset as a Minari dataset, part by part; it appears whole or not at all.

    Args:
        path: Folder of a finished dataset.
        name: Minari's name; ``"adarena/MARKET/TIER-v0"`` when empty.

    Returns:
        Minari's name.

    Raises:
        ImportError: Minari is not installed.
        RunFolderError: The dataset is damaged or not finished.
        ValueError: A Minari dataset has that name already.
    """
    minari = require_minari()
    from minari.namespace import create_namespace, list_local_namespaces

    folder, about = logged.open_dataset(path)
    name = name or dataset_id(about)
    target = _path_of(name)
    if target.exists():
        raise ValueError(f"name must be new to Minari, got {name!r}; `minari delete {name}` removes the old one")
    # Filled in a store of its own and moved: whoever finds the dataset finds it complete.
    draft = _path_of("") / f".adarena-{os.getpid()}.tmp"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with _store(draft):
            _write(minari, folder, about, name)
        _sum(draft / name)
        namespace = str(Path(name).parent)
        if namespace != "." and namespace not in list_local_namespaces():
            create_namespace(namespace)
        os.rename(draft / name, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return name


def verify(name: str) -> None:
    """Verifies the files of an exported Minari dataset.

    Raises:
        RunFolderError: One is missing, torn or edited; the message names it.
    """
    path = _path_of(name)
    try:
        lines = (path / _SUMS).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RunFolderError(f"{_SUMS} of {name} cannot be read: {error.strerror}") from error
    for line in lines:
        digest, _, file = line.partition("  ")
        if not (path / file).is_file():
            raise RunFolderError(f"{file} is missing from {name}, whose {_SUMS} lists it")
        if _digest(path / file) != digest:
            raise RunFolderError(f"{file} was edited or torn: its SHA-256 is not the one in {_SUMS} of {name}")


def _write(minari: Any, folder: RunFolder, about: logged.About, name: str) -> None:
    """Writes all parts into Minari's current store."""
    import gymnasium

    env, params = about.make()
    spec = copy.deepcopy(gymnasium.spec(about.env))
    spec.kwargs = {**spec.kwargs, **about.changes}
    spec.max_episode_steps = about.steps + 1  # d3rlpy wants a limit; the episode ends before it, so nothing is cut
    dataset = None
    for number in tqdm(range(about.parts), desc=f"writing {name}", unit="part", disable=None, delay=2.0):
        buffers = list(_buffers(logged.read_part(folder, number), number * about.part_episodes))
        if dataset is not None:
            dataset.update_dataset_from_buffer(buffers)
            continue
        with warnings.catch_warnings():  # Minari asks for an author and an e-mail address
            warnings.simplefilter("ignore", UserWarning)
            dataset = minari.create_dataset_from_buffers(
                dataset_id=name,
                buffer=buffers,
                env=spec,
                eval_env=spec,
                algorithm_name=", ".join(about.policies),
                observation_space=env.observation_space(params),
                action_space=env.action_space(params),
                description=_description(folder, about),
                data_format="hdf5",
                requirements=[f"adarena=={folder.manifest['packages'].get('adarena', '0.1.0')}"],
            )


def _buffers(part: Episodes, first: int) -> Iterator[Any]:
    """One buffer an episode."""
    from minari.data_collector import EpisodeBuffer

    ends = np.zeros(part.steps, bool)
    ends[-1] = True
    for i in range(part.count):
        yield EpisodeBuffer(
            id=first + i,
            seed=int(part.seeds[i]),
            observations=part.observations[i],
            actions=part.actions[i],
            rewards=part.rewards[i],
            terminations=part.terminated[i],
            truncations=ends & ~part.terminated[i],
            infos={
                "log_prob": part.log_probs[i],
                "behaviour": part.behaviour[i : i + 1],
                "case": part.seeds[i : i + 1],
            },
        )


def _description(folder: RunFolder, about: logged.About) -> str:
    content = {
        "behaviour": list(about.policies),
        "observation": [entry.name for entry in about.observation],
        "env": about.env,
        "changes": about.changes,
        "config": folder.config["fields"],
    }
    return "Logged episodes of adarena with log-densities of all actions. " + json.dumps(content, sort_keys=True)


def _path_of(name: str) -> Path:
    from minari.storage import get_dataset_path

    return Path(get_dataset_path(name))


@contextlib.contextmanager
def _store(path: Path) -> Iterator[None]:
    """Minari's store elsewhere for a while."""
    before = os.environ.get(_ROOT)
    path.mkdir(parents=True)
    os.environ[_ROOT] = str(path)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ROOT]
        else:
            os.environ[_ROOT] = before


def _sum(path: Path) -> None:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    text = "".join(f"{_digest(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
    (path / _SUMS).write_text(text, encoding="utf-8")


def _digest(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
