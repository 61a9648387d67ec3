"""Pytrees of environments: frozen, changed by copying, all fields children."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from adarena.envs import pytree


@pytree.dataclass
class Pair:
    one: jax.Array
    other: jax.Array | None = None


def test_it_is_a_frozen_dataclass_that_jax_maps_over() -> None:
    pair = Pair(jnp.float32(1.0), jnp.arange(3))
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair.one = jnp.float32(2.0)  # type: ignore[misc]
    doubled = jax.jit(lambda p: jax.tree.map(lambda x: 2 * x, p))(pair)
    assert (float(doubled.one), doubled.other.tolist()) == (2.0, [0, 2, 4])
    assert jax.tree.leaves(Pair(jnp.float32(1.0))) == [1.0]
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(pair)]
    assert paths == [".one", ".other"]


def test_copies_change_one_field() -> None:
    pair = Pair(jnp.float32(1.0))
    for changed in (dataclasses.replace(pair, one=3.0), pair.replace(one=3.0)):  # type: ignore[attr-defined]
        assert (changed.one, changed.other) == (3.0, None)
    assert pair.one == 1.0
    with pytest.raises(TypeError, match="unexpected keyword argument 'third'"):
        pair.replace(third=1.0)  # type: ignore[attr-defined]
