"""Logged data: collected in parts, resumed to the same bytes, refused when altered, read by Minari, written as AuctionNet's."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl
import pytest

from adarena.agents.behaviour import Mixture
from adarena.envs.core import episode_keys
from adarena.envs.data.auctionnet_training import read_training
from adarena.experiments import auctionnet_export, behaviours, cli, collect, logged, minari_export, protocol, tables
from adarena.experiments.store import RunFolder, RunFolderError

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = collect.CollectConfig(
    tier="mixed",
    impressions=8,
    episodes=7,
    seed=3,
    train_steps=1536,
    num_envs=16,
    hidden=(8,),
    rules=("constant", "min_pacing"),
    tune_episodes=176,
    part_episodes=3,
    chunk=3,
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where datasets lie; the policies beside them are trained once."""
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="module")
def mixed(out: Path) -> Path:
    return collect.run(dataclasses.replace(TINY, out=str(out)))


@pytest.fixture(scope="module")
def rules(out: Path) -> Path:
    return collect.run(dataclasses.replace(TINY, out=str(out), tier="rules", episodes=4))


def hashes(path: Path) -> dict[str, str]:
    return RunFolder.open(path).manifest["files"]


# What is in a dataset ------------------------------------------------------------------------------------------------


def test_a_dataset_holds_what_its_schema_says(mixed: Path) -> None:
    data = logged.load(mixed)
    episodes, about = data.episodes, data.about
    assert (episodes.count, episodes.steps) == (7, 48)
    assert about.policies == ("random", "medium", "expert")
    assert len(set(about.digests)) == 3
    assert episodes.behaviour.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert episodes.seeds.tolist() == [(3 << 32) + i for i in range(7)]
    assert episodes.observations.shape[2] == len(about.observation)
    assert about.observation[0].name == about.make()[0].OBSERVATION[0].name
    assert np.isfinite(episodes.log_probs).all()
    assert episodes.terminated[:, -1].all()
    np.testing.assert_allclose(episodes.log_probs[episodes.behaviour == 0], -np.log(2.0), rtol=1e-6)
    assert data.config["fields"]["tier"] == "mixed"
    assert data.manifest["status"] == "done"


def test_logged_numbers_are_the_policies_and_the_markets(mixed: Path, out: Path) -> None:
    """Played by hand, step by step: what the policy saw, did, and how densely, and what the market paid."""
    data = logged.load(mixed)
    env, params = data.about.make()
    config = TINY.behaviour()
    members = tuple(behaviours.behaviours(config, "mixed", env, params, out / "behaviours", tables.console()).values())
    episode = 5
    key = logged.case_keys(data.episodes.seeds)[episode]
    mixture = Mixture(members, jax.numpy.int32(data.episodes.behaviour[episode]))
    step_keys, act_keys = episode_keys(key, 48)
    step, draw = jax.jit(env.step), jax.jit(mixture.draw)
    obs, state = jax.jit(env.reset)(key, params)
    memory: Any = mixture.init(params)
    for tick in range(4):
        np.testing.assert_allclose(data.episodes.observations[episode, tick], obs, rtol=1e-4, atol=1e-5)
        memory, action, log_prob = draw(act_keys[tick], memory, obs)
        np.testing.assert_allclose(data.episodes.actions[episode, tick], action, rtol=1e-4, atol=1e-5)
        assert data.episodes.log_probs[episode, tick] == pytest.approx(float(log_prob), abs=1e-3)
        obs, state, reward, *_ = step(step_keys[tick], state, action, params)
        assert data.episodes.rewards[episode, tick] == pytest.approx(float(reward), rel=1e-3, abs=1e-5)


def test_no_logged_market_is_one_of_tuning_or_evaluation() -> None:
    seeds = (np.int64(3) << 32) + np.arange(64)
    ours = {bytes(np.asarray(x)) for x in jax.random.key_data(logged.case_keys(seeds))}
    assert len(ours) == 64
    roots = [jax.random.fold_in(jax.random.key(3), n) for n in (0, protocol.TUNING, protocol.EVALUATION)]
    others = [jax.random.key_data(jax.random.split(root, 64)) for root in roots]  # as folding in 0 ... 63
    theirs = {bytes(np.asarray(x)) for x in (*(jax.random.key_data(root) for root in roots), *np.concatenate(others))}
    assert not ours & theirs
    drawn = jax.random.key_data(protocol.draw_cases(3, 64, [0], [1.0]).keys)
    assert theirs >= {bytes(np.asarray(x)) for x in drawn}
    with pytest.raises(ValueError, match="seeds must be int64 and not negative, got int64 -1"):
        logged.case_keys(np.asarray([-1]))


def test_rules_explore_with_a_density_of_their_own(rules: Path) -> None:
    data = logged.load(rules)
    assert data.about.policies == ("constant", "min_pacing")
    constant = data.episodes.take(np.flatnonzero(data.episodes.behaviour == 0))
    assert constant.actions.std(axis=1).min() > 0.02
    assert np.abs(constant.actions).max() <= 1.0
    # With noise 0.1 a density is at most that of half a normal at its middle.
    assert data.episodes.log_probs.max() <= np.log(2 / (0.1 * np.sqrt(2 * np.pi))) + 1e-3
    assert data.episodes.log_probs.mean() == pytest.approx(-0.5 - np.log(0.1 * np.sqrt(2 * np.pi)), abs=0.3)


# Resumption and damage -----------------------------------------------------------------------------------------------


def test_a_killed_collection_ends_in_the_same_bytes(mixed: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(TINY, out=str(out), name="killed")
    write = logged.write_part

    def stop(folder: RunFolder, number: int, episodes: Any) -> Path:
        if number == 1:
            raise KeyboardInterrupt
        return write(folder, number, episodes)

    monkeypatch.setattr(logged, "write_part", stop)
    with pytest.raises(KeyboardInterrupt):
        collect.run(config)
    with pytest.raises(RunFolderError, match="killed is not finished: it has 1 of 3 parts"):
        logged.load(out / "killed")
    monkeypatch.setattr(logged, "write_part", write)
    with pytest.raises(RunFolderError, match="killed is there already"):
        collect.run(config)
    with pytest.raises(RunFolderError, match=r"another configuration: noise was 0\.1 and is 0\.2"):
        collect.run(dataclasses.replace(config, noise=0.2), resume=True)
    collect.run(config, resume=True)
    assert hashes(out / "killed") == hashes(mixed)


@pytest.mark.parametrize("name", ["part-00001.npz", "about.json", "config.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["altered", "truncated", "removed"])
def test_damage_is_refused_by_name(mixed: Path, tmp_path: Path, name: str, damage: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(mixed, copy)
    content = bytearray((copy / name).read_bytes())
    if damage == "removed":
        (copy / name).unlink()
    else:
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(bytes(content) if damage == "altered" else bytes(content[:-7]))
    with pytest.raises(RunFolderError, match=name.replace(".", r"\.")):
        logged.load(copy)


def test_other_policies_are_not_mixed_into_a_dataset(mixed: Path, out: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(mixed, copy)
    folder, about = logged.open_dataset(copy)
    other = dataclasses.replace(about, digests=("0", "1", "2"))
    with pytest.raises(RunFolderError, match="begun with other behaviour policies or another market: digests"):
        collect._settle_about(folder, other)
    with pytest.raises(RunFolderError, match=r"is no dataset of adarena collect"):
        logged.load(next((out / "behaviours").iterdir()))


# Other formats -------------------------------------------------------------------------------------------------------


def test_minari_reads_what_was_logged(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    name = minari_export.export(mixed)
    assert name == "adarena/autobid/mixed-v0"
    assert name in minari.list_local_datasets()
    dataset, episodes = minari.load_dataset(name), logged.load(mixed).episodes
    assert (dataset.total_episodes, dataset.total_steps) == (7, 7 * 48)
    for i, episode in enumerate(dataset.iterate_episodes()):
        np.testing.assert_array_equal(episode.observations, episodes.observations[i])
        np.testing.assert_array_equal(episode.actions, episodes.actions[i])
        np.testing.assert_array_equal(episode.rewards, episodes.rewards[i])
        np.testing.assert_array_equal(episode.terminations, episodes.terminated[i])
        assert not episode.truncations.any()
        np.testing.assert_array_equal(episode.infos["log_prob"], episodes.log_probs[i])
        assert episode.infos["behaviour"].tolist() == [episodes.behaviour[i]]
        assert episode.infos["case"].tolist() == [episodes.seeds[i]]
    env = dataset.recover_environment()
    assert env.observation_space == dataset.observation_space
    assert env.action_space == dataset.action_space
    assert dataset.env_spec.max_episode_steps == 49
    assert dataset.action_space.contains(episodes.actions[0, 0])
    with pytest.raises(ValueError, match=f"name must be new to Minari, got '{name}'"):
        minari_export.export(mixed)
    minari_export.verify(name)
    data = tmp_path / "minari" / name / "data" / "main_data.hdf5"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(RunFolderError, match=r"main_data\.hdf5 was edited or torn"):
        minari_export.verify(name)
    assert [path.name for path in (tmp_path / "minari").iterdir()] == ["adarena"]


def test_without_minari_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "minari", None)
    with pytest.raises(ImportError, match=r"pip install 'adarena\[offline\]'"):
        collect.run(dataclasses.replace(TINY, out=str(tmp_path), formats=("minari",)))
    assert not list(tmp_path.iterdir()), "refused before anything runs"


def test_auctionnets_table_is_of_the_same_market(mixed: Path, tmp_path: Path) -> None:
    path = auctionnet_export.export(mixed, tmp_path / "rl.csv", chunk=3)
    table, report = read_training(path, max_bad_share=0.0)
    assert report.rows_kept == report.rows_read == table.height == 7 * 48
    data = logged.load(mixed)
    params, episodes = data.about.make()[1], data.episodes
    assert table["deliveryPeriodIndex"].to_list() == np.repeat(np.arange(7), 48).tolist()
    # A quick look at what both observations show: the share of the budget left.
    entry = [entry.name for entry in data.about.observation].index("budget_left")
    state = table["state"].to_numpy().reshape(7, 48, 16)
    np.testing.assert_allclose(state[:, :, 1], episodes.observations[:, :-1, entry], atol=1e-5)
    np.testing.assert_allclose(state[0, :, 0], 1 - np.arange(48) / 48, atol=1e-6)
    alpha = table["action"].to_numpy().reshape(7, 48)
    target = table["CPAConstraint"].to_numpy().reshape(7, 48)
    bids = alpha > 0
    meant = target * float(params.max_multiplier) ** episodes.actions[..., 0]
    assert bids[:, 0].all()
    np.testing.assert_allclose(alpha[bids], meant[bids], rtol=1e-4)
    done = table.filter(pl.col("timeStepIndex") == 47)
    assert (done["done"] == 1).all()
    assert table.filter(pl.col("done") == 1)["next_state"].is_null().all()
    whole = table.group_by("deliveryPeriodIndex", maintain_order=True).agg(pl.col("reward").sum())["reward"].to_numpy()
    first = table.filter(pl.col("timeStepIndex") == 0)
    np.testing.assert_allclose(first["realAllConversion"].to_numpy(), whole, rtol=1e-5)
    cost, value = first["realAllCost"].to_numpy(), first["realAllConversion"].to_numpy()
    score = value * np.minimum(1.0, (first["CPAConstraint"].to_numpy() * value / np.maximum(cost, 1e-9)) ** 2)
    np.testing.assert_allclose(episodes.returns(), score, rtol=1e-3)
    assert (tmp_path / "rl.csv.sha256").read_text().endswith("  rl.csv\n")
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(ValueError, match=r"target must end in \.csv, got 'rl\.parquet'"):
        auctionnet_export.export(mixed, tmp_path / "rl.parquet")


def test_another_market_is_not_written(mixed: Path) -> None:
    episodes = logged.load(mixed).episodes.take(np.arange(3))
    played = auctionnet_export._Replayed(None, episodes.rewards + 0.1, *[None] * 8)
    with pytest.raises(RunFolderError, match=r"mixed was logged in another market: .* differs by 0\.1"):
        auctionnet_export._check(episodes, played, "mixed")


def test_transitions_line_up(mixed: Path) -> None:
    episodes = logged.load(mixed).episodes
    rows = logged.transitions(episodes)
    assert {name: x.shape[0] for name, x in rows.items()} == dict.fromkeys(rows, 7 * 48)
    np.testing.assert_array_equal(rows["observations"][48], episodes.observations[1, 0])
    np.testing.assert_array_equal(rows["rewards"][95], episodes.rewards[1, 47:48])
    assert np.flatnonzero(rows["terminals"]).tolist() == list(range(47, 7 * 48, 48))
    assert not rows["timeouts"].any()
    cut = dataclasses.replace(episodes, terminated=np.zeros_like(episodes.terminated))
    rows = logged.transitions(cut)
    assert np.flatnonzero(rows["timeouts"]).tolist() == list(range(47, 7 * 48, 48))
    assert not rows["terminals"].any()


# Configuration -------------------------------------------------------------------------------------------------------

BAD = [
    ({"tier": "best"}, "tier must be among random, medium, expert, mixed, rules, got 'best'"),
    ({"formats": ("csv",)}, "formats must be among minari, auctionnet, got 'csv'"),
    ({"rules": ("random",)}, "rules must be among constant, .*got 'random'"),
    ({"rules": ("constant", "constant")}, "rules must be distinct"),
    ({"rules": ()}, "rules must name at least one"),
    ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
    ({"episodes": -1}, "episodes must be 0 or a whole number from 1 .*got -1"),
    ({"part_episodes": 2.5}, "part_episodes must be a whole number of at least 1, got 2.5"),
    ({"seed": -1}, r"seed must be a whole number from 0 to 2\^31 - 1, got -1"),
    ({"budgets": (1.5, 0.5)}, r"budgets must be two rising numbers in \(0, 100\), got \(1.5, 0.5\)"),
    ({"medium_share": 1.0}, r"medium_share must lie in \(0, 1\), got 1.0"),
    ({"noise": 0.0}, r"noise must lie in \(0, 10\], got 0.0"),
    ({"traffic": "replay"}, "traffic must not be the replay of a log, got 'replay'"),
    ({"train_steps": 0}, "train_steps must be a whole number of at least 1, got 0"),
    ({"tier": "rules", "tune_episodes": 72}, "tune_episodes must be at least 171 episodes .*got 72"),
    ({"mechanism": "dutch"}, "mechanisms must be among .*got 'dutch'"),
    ({"market": ""}, "market must not be empty, got ''"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_configurations_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **changes)


def test_the_command_says_what_happens_and_where_it_is(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["collect", "--tier", "random", "--impressions", "8", "--episodes", "2", "--out", str(out)]
    cli.main(words)
    lines = capsys.readouterr().out.replace("\n", " ")
    assert "tier random: 2 episodes, 96 steps; the dataset goes to" in lines
    assert lines.rstrip().endswith("logged.load reads it")
    assert logged.load(out / "autobid-random").episodes.count == 2
    for more, message in (
        ([], "is there already"),
        (["--preset", "huge"], "preset must be one of default, auctionnet"),
    ):
        with pytest.raises(SystemExit):
            cli.main([*words, *more])
        assert message in capsys.readouterr().err
