"""Checkpoints of any pytree with orbax: written whole or not at all, and refused when anything is amiss.

A folder holds one checkpoint a step, ``<folder>/<step, nine digits>``. Orbax writes each under a temporary name and
renames it when it is complete. Beside the arrays lies a manifest with the name, shape, dtype and checksum of every
leaf, so that a damaged or mismatched checkpoint is refused with a message and never loaded in part.
"""

from __future__ import annotations

import json
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_FORMAT = 1
_STEP_NAME = re.compile(r"\d{9,}")


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or not of what was asked for. The message names its path and what is wrong."""


def save(folder: str | Path, step: int, tree: Any, *, metadata: dict[str, Any] | None = None, keep: int = 2) -> Path:
    """Writes a checkpoint, then removes old ones.

    Args:
        folder: Folder of all checkpoints of a run; made if need be.
        step: Number of the checkpoint, at least 0. One that exists already is replaced.
        tree: Pytree of arrays, typed JAX keys included.
        metadata: What JSON can hold, returned by `restore`.
        keep: How many of the newest to keep, at least 1.

    Returns:
        The checkpoint's own folder.

    Raises:
        ValueError: ``step`` or ``keep`` is too small.
        TypeError: A leaf is no array or number, or ``metadata`` is not JSON.
    """
    import orbax.checkpoint as ocp

    if step < 0:
        raise ValueError(f"step must be at least 0, got {step}")
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    leaves = _named_leaves(tree)
    arrays = {name: _to_numpy(name, leaf) for name, leaf in leaves.items()}
    entries = [{**_entry(name, leaves[name], array), "crc32": _crc(array)} for name, array in arrays.items()]
    body = json.dumps({"format": _FORMAT, "step": step, "leaves": entries, "metadata": metadata or {}}, sort_keys=True)
    manifest = {"body": body, "crc32": zlib.crc32(body.encode())}
    path = Path(folder).absolute() / f"{step:09d}"
    items = ocp.args.Composite(arrays=ocp.args.StandardSave(_for_orbax(arrays)), manifest=ocp.args.JsonSave(manifest))
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(path, items, force=True)
    for old in steps(folder)[:-keep]:
        shutil.rmtree(Path(folder) / f"{old:09d}")
    return path


def steps(folder: str | Path) -> list[int]:
    """Numbers of the complete checkpoints in ``folder``, in rising order; empty if there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return []
    return sorted(int(child.name) for child in folder.iterdir() if child.is_dir() and _STEP_NAME.fullmatch(child.name))


def read_metadata(folder: str | Path, step: int | None = None) -> dict[str, Any]:
    """The metadata of a checkpoint (the newest by default), its manifest checked, no array read.

    Raises:
        CheckpointError: It is missing or its manifest is damaged.
    """
    return _read_manifest(_find(folder, step))["metadata"]


def restore(folder: str | Path, like: Any, *, step: int | None = None) -> tuple[Any, dict[str, Any]]:
    """Reads a checkpoint.

    Args:
        folder: Folder of all checkpoints of a run.
        like: Pytree of the structure, shapes, dtypes and kinds of keys that are expected; its values are not read, and
            leaves may be ``jax.ShapeDtypeStruct``.
        step: Which checkpoint; the newest by default.

    Returns:
        ``(tree, metadata)``, the tree bit for bit as it was saved, of JAX arrays.

    Raises:
        CheckpointError: It is missing, damaged, or does not match ``like``.
    """
    path = _find(folder, step)
    manifest = _read_manifest(path)
    entries = {entry["name"]: entry for entry in manifest["leaves"]}
    expected = _named_leaves(like)
    _check_match(path, expected, entries)
    arrays = _read_arrays(path, entries)
    restored = [_from_numpy(leaf, arrays[name]) for name, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(like), restored), manifest["metadata"]


def digest(tree: Any) -> str:
    """A checksum of a pytree's leaves, with their names, shapes and dtypes: tells whether two trees are the same."""
    crc = 0
    for name, leaf in _named_leaves(tree).items():
        array = _to_numpy(name, leaf)
        crc = zlib.crc32(f"{name}{array.shape}{array.dtype}".encode(), crc)
        crc = zlib.crc32(array.tobytes(), crc)
    return f"{crc:08x}"


def _named_leaves(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path) or "leaf": leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_numpy(name: str, leaf: Any) -> np.ndarray:
    array = np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    if array.dtype.kind not in "biufcV":
        raise TypeError(f"leaf {name} must be an array or a number, got {type(leaf).__name__}")
    return array


def _from_numpy(like: Any, array: np.ndarray) -> jax.Array:
    return jax.random.wrap_key_data(jnp.asarray(array), impl=_key_kind(like)) if _is_key(like) else jnp.asarray(array)


def _key_kind(leaf: Any) -> str | None:
    """Name of a key's generator, read off its dtype (``key<fry>``), which abstract leaves have too."""
    return leaf.dtype._impl.name if _is_key(leaf) else None  # no public accessor takes a ShapeDtypeStruct


def _entry(name: str, leaf: Any, array: np.ndarray) -> dict[str, Any]:
    return {"name": name, "shape": list(array.shape), "dtype": str(array.dtype), "key": _key_kind(leaf)}


def _expected_entry(name: str, leaf: Any) -> dict[str, Any]:
    if _is_key(leaf):
        data = jax.eval_shape(jax.random.key_data, leaf)
        return {"name": name, "shape": list(data.shape), "dtype": str(data.dtype), "key": _key_kind(leaf)}
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return {"name": name, "shape": list(leaf.shape), "dtype": str(leaf.dtype), "key": None}


def _crc(array: np.ndarray) -> int:
    return zlib.crc32(array.tobytes())


def _for_orbax(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Orbax stores no empty arrays (the manifest knows their shape), and wants at least one leaf."""
    stored = {f"{index:05d}": array for index, array in enumerate(arrays.values()) if array.size}
    return stored or {"none": np.zeros(1, np.uint8)}


def _find(folder: str | Path, step: int | None) -> Path:
    known = steps(folder)
    if not known:
        raise CheckpointError(f"{Path(folder)}: holds no complete checkpoint")
    if step is not None and step not in known:
        raise CheckpointError(f"{Path(folder)}: has no checkpoint of step {step}; there are {known}")
    return Path(folder).absolute() / f"{known[-1] if step is None else step:09d}"


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / "manifest" / "metadata").read_text())
        body = manifest["body"]
        intact = zlib.crc32(body.encode()) == manifest["crc32"]
        content = json.loads(body)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: its manifest is missing") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its manifest cannot be read ({error})") from error
    if not intact:
        raise CheckpointError(f"{path}: its manifest does not match its checksum")
    if content["format"] != _FORMAT:
        raise CheckpointError(f"{path}: is of format {content['format']}, this version reads format {_FORMAT}")
    return content


def _check_match(path: Path, expected: dict[str, Any], entries: dict[str, dict[str, Any]]) -> None:
    missing, surplus = sorted(set(expected) - set(entries)), sorted(set(entries) - set(expected))
    if missing or surplus:
        parts = [f"lacks {missing[0]} ({len(missing)} such)"] if missing else []
        parts += [f"has {surplus[0]}, which is not expected ({len(surplus)} such)"] if surplus else []
        raise CheckpointError(f"{path}: is of another structure: it {' and '.join(parts)}")
    for name, leaf in expected.items():
        for what, value in _expected_entry(name, leaf).items():
            if entries[name][what] != value:
                raise CheckpointError(f"{path}: {name} has {what} {entries[name][what]}, expected {value}")


def _read_arrays(path: Path, entries: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    import orbax.checkpoint as ocp

    empty = {name: np.zeros(entry["shape"], jnp.dtype(entry["dtype"])) for name, entry in entries.items()}
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            items = ocp.args.Composite(arrays=ocp.args.StandardRestore(_for_orbax(empty)))
            stored = checkpointer.restore(path, args=items).arrays
    except Exception as error:  # orbax and tensorstore raise many kinds for damaged files; all mean the same here
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path}: its arrays cannot be read ({reason[0][:300]})") from error
    arrays = {}
    for index, (name, entry) in enumerate(entries.items()):
        array = np.asarray(stored[f"{index:05d}"]) if empty[name].size else empty[name]
        if array.shape != empty[name].shape or array.dtype != empty[name].dtype or _crc(array) != entry["crc32"]:
            raise CheckpointError(f"{path}: {name} does not match its checksum")
        arrays[name] = array
    return arrays
