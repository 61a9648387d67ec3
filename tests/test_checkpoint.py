"""Checkpoints come back bit for bit, or not at all."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from adarena.agents import checkpoint
from adarena.agents.checkpoint import CheckpointError


@struct.dataclass
class Example:
    weights: Any
    keys: Any
    other: Any


def example(seed: int = 0) -> Example:
    key = jax.random.key(seed)
    return Example(
        weights={"a": jax.random.normal(key, (40, 60)), "b": jnp.asarray([np.nan, -0.0, np.inf])},
        keys=(key, jax.random.split(key, 6).reshape(2, 3), jax.random.key(seed, impl="rbg")),
        other=[jnp.asarray(True), jnp.int32(seed), jnp.zeros((0, 3)), jnp.ones(4, jnp.bfloat16), jnp.arange(3)],
    )


def bits(tree: Any) -> list[bytes]:
    plain = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in jax.tree.leaves(tree)
    ]
    return [np.asarray(x).tobytes() for x in plain]


def test_round_trip_is_bitwise(tmp_path: Path) -> None:
    tree = example()
    path = checkpoint.save(tmp_path / "run", 7, tree, metadata={"note": ["x", 1]})
    restored, metadata = checkpoint.restore(tmp_path / "run", example(1))
    assert path == tmp_path / "run" / "000000007"
    assert metadata == {"note": ["x", 1]} == checkpoint.read_metadata(tmp_path / "run")
    assert str(jax.tree.structure(restored)) == str(jax.tree.structure(tree))
    assert bits(restored) == bits(tree)
    assert [x.dtype for x in jax.tree.leaves(restored)] == [x.dtype for x in jax.tree.leaves(tree)]
    np.testing.assert_array_equal(jax.random.uniform(restored.keys[2], (3,)), jax.random.uniform(tree.keys[2], (3,)))


def test_restores_from_shapes_alone(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 0, example())
    restored, _ = checkpoint.restore(tmp_path, jax.eval_shape(example))
    assert bits(restored) == bits(example())


def test_keeps_the_newest_and_ignores_what_was_not_finished(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        checkpoint.save(tmp_path, step, {"x": jnp.full(3, step)}, keep=2)
    (tmp_path / "000000011.orbax-checkpoint-tmp-0").mkdir()
    assert checkpoint.steps(tmp_path) == [2, 10]
    assert checkpoint.restore(tmp_path, {"x": jnp.zeros(3, int)})[0]["x"][0] == 10
    assert checkpoint.restore(tmp_path, {"x": jnp.zeros(3, int)}, step=2)[0]["x"][0] == 2
    with pytest.raises(CheckpointError, match=r"has no checkpoint of step 1; there are \[2, 10\]"):
        checkpoint.restore(tmp_path, {"x": jnp.zeros(3, int)}, step=1)


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 3, jnp.zeros(2))
    checkpoint.save(tmp_path, 3, jnp.ones(2))
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, jnp.zeros(2))[0], [1.0, 1.0])


def largest_file(path: Path) -> Path:
    return max((file for file in (path / "arrays").rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


def truncate_arrays(path: Path) -> None:
    file = largest_file(path)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_arrays(path: Path) -> None:
    file = largest_file(path)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(bytes(content))


def delete_arrays(path: Path) -> None:
    largest_file(path).unlink()


def manifest_file(path: Path) -> Path:
    return path / "manifest" / "metadata"


def delete_manifest(path: Path) -> None:
    manifest_file(path).unlink()


def truncate_manifest(path: Path) -> None:
    manifest_file(path).write_text(manifest_file(path).read_text()[:-20])


def edit_manifest(path: Path) -> None:
    manifest_file(path).write_text(manifest_file(path).read_text().replace("float32", "float64"))


def wrong_checksum_of_an_array(path: Path) -> None:
    body = json.loads(json.loads(manifest_file(path).read_text())["body"])
    body["leaves"][0]["crc32"] ^= 1
    text = json.dumps(body)
    manifest_file(path).write_text(json.dumps({"body": text, "crc32": zlib.crc32(text.encode())}))


def future_format(path: Path) -> None:
    body = json.loads(json.loads(manifest_file(path).read_text())["body"])
    text = json.dumps({**body, "format": 99})
    manifest_file(path).write_text(json.dumps({"body": text, "crc32": zlib.crc32(text.encode())}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate_arrays, "its arrays cannot be read"),
        (flip_arrays, "its arrays cannot be read|does not match its checksum"),
        (delete_arrays, "its arrays cannot be read"),
        (delete_manifest, "its manifest is missing"),
        (truncate_manifest, "its manifest cannot be read"),
        (edit_manifest, "its manifest does not match its checksum"),
        (wrong_checksum_of_an_array, r"\['a'\] does not match its checksum"),
        (future_format, "is of format 99, this version reads format 1"),
    ],
)
def test_damage_is_refused(tmp_path: Path, damage: Any, reason: str) -> None:
    tree = {"a": jax.random.normal(jax.random.key(0), (300, 50)), "k": jax.random.key(1)}
    path = checkpoint.save(tmp_path, 5, tree)
    damage(path)
    with pytest.raises(CheckpointError, match=reason) as caught:
        checkpoint.restore(tmp_path, tree)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("like", "reason"),
    [
        ({"a": jnp.zeros((4, 3)), "k": jax.random.key(0)}, r"\['a'\] has shape \[4, 2\], expected \[4, 3\]"),
        ({"a": jnp.zeros((4, 2), int), "k": jax.random.key(0)}, r"\['a'\] has dtype float32, expected int32"),
        ({"a": jnp.zeros((4, 2)), "k": jax.random.key(0, impl="rbg")}, r"\['k'\] has shape \[2\], expected \[4\]"),
        ({"a": jnp.zeros((4, 2)), "k": jnp.zeros(2, jnp.uint32)}, r"\['k'\] has key .*fry.*, expected None"),
        ({"a": jnp.zeros((4, 2))}, r"has \['k'\], which is not expected"),
        ({"a": jnp.zeros((4, 2)), "k": jax.random.key(0), "z": jnp.zeros(1)}, r"lacks \['z'\]"),
    ],
)
def test_mismatch_is_refused(tmp_path: Path, like: Any, reason: str) -> None:
    checkpoint.save(tmp_path, 5, {"a": jnp.zeros((4, 2)), "k": jax.random.key(0)})
    with pytest.raises(CheckpointError, match=reason) as caught:
        checkpoint.restore(tmp_path, like)
    assert str(tmp_path / "000000005") in str(caught.value)


def test_nothing_to_restore(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        checkpoint.restore(tmp_path / "nowhere", jnp.zeros(1))
    assert checkpoint.steps(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        ({"step": -1, "tree": jnp.zeros(1)}, ValueError, "step must be at least 0, got -1"),
        ({"step": 0, "tree": jnp.zeros(1), "keep": 0}, ValueError, "keep must be at least 1, got 0"),
        ({"step": 0, "tree": {"x": "text"}}, TypeError, r"leaf \['x'\] must be an array or a number, got str"),
        ({"step": 0, "tree": jnp.zeros(1), "metadata": {"x": object()}}, TypeError, "JSON"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, Any], error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        checkpoint.save(tmp_path, **arguments)
    assert checkpoint.steps(tmp_path) == []


def test_digest_tells_trees_apart() -> None:
    assert checkpoint.digest(example()) == checkpoint.digest(example())
    assert checkpoint.digest({"a": jnp.zeros(2)}) != checkpoint.digest({"b": jnp.zeros(2)})
    assert checkpoint.digest({"a": jnp.zeros(2)}) != checkpoint.digest({"a": jnp.zeros(2, int)})
    assert checkpoint.digest(jax.random.key(0)) != checkpoint.digest(jax.random.key(1))
