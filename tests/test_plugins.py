"""Environments and policies that installed packages bring: found, loaded when asked for, and refused one by one."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import minimal_env
import pytest
from packages import install

from adarena import envs
from adarena.agents import policy, rules
from adarena.envs import registry
from adarena.envs.market import auction, mechanisms
from adarena.envs.plugins import PluginError, Plugins
from adarena.experiments.auctionnet import AuctionNetConfig, _contenders
from adarena.experiments.autobid import AutoBidExperiment

ENVIRONMENTS, POLICIES, MECHANISMS = "adarena.environments", "adarena.policies", "adarena.mechanisms"
GOOD = Path(minimal_env.__file__).read_text().replace("register(ENV_ID", "# register(ENV_ID")
RULE = """
from flax import struct
from adarena.agents.rules import Constant, Rule

@struct.dataclass
class Bold(Constant):
    def control(self, key, memory, obs):
        return memory, self.opening(obs) + 0.5

def factory(env):
    return Bold.build(env)
"""

Install = Callable[..., None]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs packages for one test; what they brought is forgotten after it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    tables: tuple[dict[str, Any], ...] = (
        *(registry._REGISTRY, gymnasium.registry, rules.RULES, policy._POLICIES, mechanisms.PAYMENTS),  # type: ignore[assignment]
    )
    kept = [dict(table) for table in tables]
    modules = set(sys.modules)

    def forget() -> None:
        for plugins in (registry.PLUGINS, policy.PLUGINS, mechanisms.PLUGINS):
            plugins._found, plugins._loaded = None, {}

    def put(*arguments: Any, **options: Any) -> None:
        install(tmp_path, *arguments, **options)
        forget()

    forget()
    yield put
    own = registry._own
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)
    for name in set(sys.modules) - modules:
        if name.startswith("plug_"):
            del sys.modules[name]
    monkeypatch.undo()
    forget()
    registry._own = own


def test_an_environment_is_known_before_its_module_is_imported(site: Install) -> None:
    site("plug-good", "1.2", {ENVIRONMENTS: {"mine/Good-v0": "plug_good:SecondPriceEnv"}}, {"plug_good": GOOD})
    registry.add_plugins()
    assert "mine/Good-v0" in gymnasium.registry
    assert "plug_good" not in sys.modules
    env = gymnasium.make("mine/Good-v0", ticks=3)
    assert env.reset(seed=0)[0].shape == (3,)
    assert env.unwrapped.functional.ticks == 3  # type: ignore[attr-defined]
    assert envs.make("mine/Good-v0", budget=9.0)[1].budget == 9.0
    assert envs.registered()["mine/Good-v0"].__module__ == "plug_good"
    assert registry.package_of("mine/Good-v0") == "plug-good 1.2"
    assert registry.package_of("adarena/AutoBid-v0") == "adarena"


def test_a_module_may_register_its_environment_itself(site: Install) -> None:
    source = GOOD + '\nregister("mine/Twice-v0", SecondPriceEnv, ticks=5)\n'
    site("plug-twice", "1", {ENVIRONMENTS: {"mine/Twice-v0": "plug_twice:SecondPriceEnv"}}, {"plug_twice": source})
    assert envs.make("mine/Twice-v0")[0].ticks == 5  # type: ignore[attr-defined]


BROKEN = {
    "mine/NoModule-v0": ("plug_nowhere:Env", "ModuleNotFoundError: No module named 'plug_nowhere'"),
    "mine/NoObject-v0": ("plug_broken:Missing", "AttributeError"),
    "mine/Raises-v0": ("plug_raises:Env", "ZeroDivisionError: division by zero"),
    "mine/Leaves-v0": ("plug_leaves:Env", "SystemExit: 3"),
    "mine/Dict-v0": ("plug_broken:CLASS", "TypeError: env_class must be a frozen dataclass"),
    "mine/Versionless": ("plug_broken:SecondPriceEnv", "ValueError: env_id must look like 'namespace/Name-v0'"),
}


def test_a_broken_one_is_named_and_the_rest_works(site: Install, caplog: pytest.LogCaptureFixture) -> None:
    entries = {name: value for name, (value, _) in BROKEN.items()} | {"mine/Fine-v0": "plug_broken:SecondPriceEnv"}
    modules = {
        "plug_broken": GOOD + "\nCLASS = dict\n",
        "plug_raises": "1 / 0",
        "plug_leaves": "import sys; sys.exit(3)",
    }
    site("plug-broken", "0.3", {ENVIRONMENTS: entries}, modules)
    registry.add_plugins()
    assert not caplog.records
    assert "mine/Fine-v0" in envs.registered()
    assert not set(BROKEN) & set(envs.registered())
    problems = registry.problems()
    assert len(problems) == len(BROKEN)
    for name, (value, why) in BROKEN.items():
        (found,) = [problem for problem in problems if repr(name) in problem]
        assert found.startswith(f"adarena.environments: {name!r} of plug-broken 0.3 ({value}) cannot be used: {why}")
        with pytest.raises(PluginError, match="cannot be used"):
            envs.make(name)
    with pytest.raises(KeyError, match=r"no environment is called 'mine/Other-v0'; known are .*mine/Fine-v0"):
        envs.make("mine/Other-v0")


def test_names_that_clash_are_refused(site: Install, caplog: pytest.LogCaptureFixture) -> None:
    site("plug-one", "1", {ENVIRONMENTS: {"mine/Same-v0": "plug_same:SecondPriceEnv"}}, {"plug_same": GOOD})
    taken = {"mine/Same-v0": "plug_same:SecondPriceEnv", "adarena/AutoBid-v0": "plug_same:SecondPriceEnv"}
    site("plug-two", "2", {ENVIRONMENTS: taken})
    registry.add_plugins()
    logged = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert logged == registry.problems()
    assert "'adarena/AutoBid-v0' of plug-two 2 (plug_same:SecondPriceEnv) is not used: the name is adarena's own" in (
        " ".join(logged)
    )
    assert "neither 'mine/Same-v0' of plug-one 1 (plug_same:SecondPriceEnv) and 'mine/Same-v0' of plug-two 2" in (
        " ".join(logged)
    )
    assert envs.registered()["adarena/AutoBid-v0"] is envs.AutoBid
    assert "mine/Same-v0" not in envs.registered()
    with pytest.raises(PluginError, match="both offer the same name; uninstall one"):
        envs.make("mine/Same-v0")


def test_a_script_cannot_take_the_name_of_a_package(site: Install) -> None:
    site("plug-owner", "1", {ENVIRONMENTS: {"mine/Owned-v0": "plug_owner:Another"}}, {"plug_owner": GOOD})
    with pytest.raises(ValueError, match="'mine/Owned-v0' is taken by plug-owner 1; choose another name"):
        envs.register("mine/Owned-v0", minimal_env.SecondPriceEnv)


def test_policies_of_packages_are_found_by_name(site: Install) -> None:
    named = {"bold": "plug_rules:Bold", "made": "plug_rules:factory", "number": "plug_rules:NUMBER"}
    site("plug-rules", "4", {POLICIES: named | {"min_pacing": "plug_rules:Bold"}}, {"plug_rules": RULE + "NUMBER = 3"})
    env, _ = envs.make("adarena/AutoBid-v0", advertisers=4)
    assert type(policy.make_policy("bold", env)).__name__ == "Bold"
    assert type(policy.make_policy("made", env)).__name__ == "Bold"
    assert type(policy.make_policy("min_pacing", env)).__module__ == "adarena.agents.rules.feedback"
    assert {"bold", "made", "min_pacing"} <= set(policy.registered_policies())
    found, problems = policy.policies_of_packages()
    assert found == {"bold": "plug-rules 4", "made": "plug-rules 4"}
    assert len(problems) == 2
    assert "a policy is a class with build(env), such as a rule, or a function of env, got 3" in " ".join(problems)
    assert "'min_pacing' of plug-rules 4 (plug_rules:Bold) is not used: the name is adarena's own" in " ".join(problems)
    with pytest.raises(PluginError, match="'number' of plug-rules 4"):
        policy.make_policy("number", env)
    with pytest.raises(KeyError, match=r"no policy is called 'nobody'; known are .*bold, "):
        policy.make_policy("nobody", env)

    contenders = _contenders(AuctionNetConfig(policy=("bold", "made", "constant"), tune_episodes=0), env, {})
    assert [(name, type(one).__name__, seeds) for name, one, seeds in contenders] == [
        ("bold", "Bold", 0),
        ("constant", "Constant", 0),
        ("made", "Bold", 0),
    ]
    assert AutoBidExperiment(rules=("bold", "constant")).rules == ("bold", "constant")
    assert rules.RULES["bold"].__name__ == "Bold"
    with pytest.raises(ValueError, match=r"rules must be among .*bold, got 'made'"):
        AutoBidExperiment(rules=("made",))


def test_auctions_of_packages_are_found_by_name(site: Install) -> None:
    source = """
import jax.numpy as jnp

def lowest(score, exposure, reserve):
    return jnp.broadcast_to(jnp.maximum(score[-1:], reserve), score[1:].shape)

def own(score, exposure, reserve):
    return score[:-1]
"""
    named = {"plug_lowest": "plug_auction:lowest", "plug_own": "plug_auction:own", "vcg": "plug_auction:lowest"}
    site("plug-auction", "2", {MECHANISMS: named}, {"plug_auction": source})
    assert "plug_auction" not in sys.modules
    assert AutoBidExperiment(mechanisms=("plug_lowest",)).mechanisms == ("plug_lowest",)
    rules_of = auction.AuctionRules("plug_lowest", 2)
    score = jnp.asarray([[4.0], [2.0], [1.0]])
    paid = auction.payment_score(rules_of, score, jnp.ones(2), jnp.zeros(1))
    assert paid.ravel().tolist() == [1.0, 1.0]
    with pytest.raises(PluginError, match=r"'plug_own' of plug-auction 2 .* depend on its holder's own score"):
        auction.AuctionRules("plug_own", 2)
    found, problems = auction.of_packages()
    assert found == {"plug_lowest": "plug-auction 2"}
    assert len(problems) == 2
    assert "'vcg' of plug-auction 2 (plug_auction:lowest) is not used: the name is adarena's own" in " ".join(problems)


def test_a_rule_is_registered_once(site: Install) -> None:
    with pytest.raises(ValueError, match="policy name 'min_pacing' is taken"):
        rules.register_rule("min_pacing", rules.Constant)
    with pytest.raises(TypeError, match=r"rule must be a class with build\(env\) and space\(\)"):
        rules.register_rule("mine", lambda env: None)  # type: ignore[arg-type]
    rules.register_rule("mine", rules.Constant)
    rules.register_rule("mine", rules.Constant)
    assert AutoBidExperiment(rules=("mine",)).rules == ("mine",)


def test_damaged_metadata_costs_only_its_own_package(
    site: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site("plug-fine", "1", {"some.group": {"a": "os:sep"}})
    site("plug-damaged", "1", {"some.group": {"b": "os:sep"}})
    (tmp_path / "plug_damaged-1.dist-info" / "entry_points.txt").write_bytes(b"[some.group]\nb = \xff\xfe\n")
    plugins = Plugins("some.group", lambda name, loaded: None)
    assert plugins.names() == ("a",)
    assert plugins.load("a") == os.sep
    assert "some.group: metadata of an installed package cannot be read" in caplog.text


COMMAND = """
import sys
from adarena.experiments.cli import main
main(sys.argv[1:])
"""


def test_the_command_lists_what_packages_bring(tmp_path: Path) -> None:
    """In a process of its own, as a user meets it; one package of the two is broken."""
    entries = {ENVIRONMENTS: {"mine/Good-v0": "plug_good:SecondPriceEnv"}, POLICIES: {"bold": "plug_rules:Bold"}}
    install(tmp_path, "plug-good", "1.2", entries, {"plug_good": GOOD, "plug_rules": RULE})
    broken = {ENVIRONMENTS: {"mine/Broken-v0": "plug_nowhere:Env"}, POLICIES: {"broken": "plug_nowhere:Rule"}}
    install(tmp_path, "plug-broken", "0.1", broken)
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", COMMAND, "envs"],
        env=os.environ | {"PYTHONPATH": paths, "COLUMNS": "150"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (row,) = [line for line in done.stdout.splitlines() if "mine/Good-v0" in line]
    assert "SecondPriceEnv" in row
    assert "plug-good 1.2" in row
    assert "adarena/AutoBid-v0" in done.stdout
    assert "policy bold, of plug-good 1.2" in done.stdout
    assert "'mine/Broken-v0' of plug-broken 0.1 (plug_nowhere:Env) cannot be used" in done.stderr
    assert "'broken' of plug-broken 0.1 (plug_nowhere:Rule) cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_rule_of_a_package_acts(site: Install) -> None:
    site("plug-rules", "4", {POLICIES: {"bold": "plug_rules:Bold"}}, {"plug_rules": RULE})
    env, params = envs.make("adarena/AutoBid-v0", advertisers=4)
    bold = policy.make_policy("bold", env)
    _, action = bold.act(jax.random.key(0), bold.init(params), jnp.zeros(len(env.OBSERVATION)))
    assert action.tolist() == pytest.approx([0.5 / float(jnp.log(params.max_multiplier))])
