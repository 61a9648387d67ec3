"""Strategy files load as they are; what they import is there for them and for nobody else."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import jax
import numpy as np
import pytest
from auctionnet_market import SmallMarket

from adarena.envs.adapters.auctionnet import BaseBiddingStrategy, StrategyError, imports_of, load_strategies
from adarena.envs.adapters.auctionnet_host import SEAT, play

pytestmark = pytest.mark.usefixtures("quick_compilation")

EXAMPLE = Path(__file__).parent.parent / "examples" / "auctionnet_strategy.py"

SIMPLE = """
    from bidding_train_env.strategy.base_bidding_strategy import BaseBiddingStrategy

    class First(BaseBiddingStrategy):
        def bidding(self, timeStepIndex, pValues, *rest):
            return self.cpa * pValues

    class Second(First):
        pass

    Alias = First
"""


def _write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(dedent(text))
    return folder


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> object:
    """Neither modules that would shadow a real installation, nor finders, nor paths."""
    before = list(sys.path), list(sys.meta_path)
    yield
    assert (list(sys.path), list(sys.meta_path)) == before
    for root in ("bidding_train_env", "simul_bidding_env", "helper_of_mine"):
        assert not [name for name in sys.modules if name.partition(".")[0] == root]
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(root)


def test_one_class_or_all_of_a_file(tmp_path: Path) -> None:
    file = _write(tmp_path, mine=SIMPLE) / "mine.py"
    found = load_strategies(file)
    assert list(found) == ["First", "Second"]
    assert load_strategies(f"{file}:Second") == {"Second": found["Second"]}
    assert load_strategies(f"{file}:Alias") == {"Alias": found["First"]}
    strategy = found["Second"](budget=10, name="x", cpa=3, category=2)
    assert isinstance(strategy, BaseBiddingStrategy)
    assert (strategy.budget, strategy.remaining_budget, strategy.cpa, strategy.category) == (10, 10, 3, 2)


@pytest.mark.parametrize(
    "line",
    [
        "from bidding_train_env.strategy.base_bidding_strategy import BaseBiddingStrategy",
        "from bidding_train_env.strategy import BaseBiddingStrategy",
        "from simul_bidding_env.strategy.base_bidding_strategy import BaseBiddingStrategy",
        "import simul_bidding_env.strategy.base_bidding_strategy as b; BaseBiddingStrategy = b.BaseBiddingStrategy",
    ],
)
def test_every_import_path(tmp_path: Path, line: str) -> None:
    text = f"{line}\nclass Mine(BaseBiddingStrategy):\n    def bidding(self, *a):\n        return a[1]\n"
    (tmp_path / "mine.py").write_text(text)
    assert issubclass(load_strategies(tmp_path)["Mine"], BaseBiddingStrategy)


def test_siblings_by_name_by_package_and_relative(tmp_path: Path) -> None:
    _write(
        tmp_path,
        helper_of_mine="FACTOR = 2.0",
        other_bidding_strategy=SIMPLE,
        mine="""
            from helper_of_mine import FACTOR
            from bidding_train_env.strategy.other_bidding_strategy import First
            from .other_bidding_strategy import Second

            class Mine(First):
                def bidding(self, timeStepIndex, pValues, *rest):
                    import late
                    return FACTOR * late.value() * super().bidding(timeStepIndex, pValues, *rest)
        """,
        late="def value():\n    from bidding_train_env.strategy import base_bidding_strategy\n    return 1.5\n",
    )
    (mine,) = load_strategies(tmp_path / "mine.py").values()
    played = play(SmallMarket(), SmallMarket().default_params(), jax.random.key(0), {0: mine})
    assert played.record is not None
    tick = played.record.ticks[0]
    np.testing.assert_allclose(tick.bid[0], 2.0 * 1.5 * 60.0 * tick.p_value[0], rtol=1e-6)


def test_a_module_of_the_same_name_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = ModuleType("clashing_name")
    monkeypatch.setitem(sys.modules, "clashing_name", theirs)
    _write(tmp_path, clashing_name="VALUE = 7", mine=f"from clashing_name import VALUE\n{dedent(SIMPLE)}")
    (cls, _) = load_strategies(tmp_path / "mine.py").values()
    assert sys.modules["clashing_name"] is theirs
    with imports_of(cls):
        assert sys.modules["clashing_name"].VALUE == 7
    assert sys.modules["clashing_name"] is theirs


def test_a_real_installation_goes_first_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = tmp_path / "site" / "bidding_train_env" / "strategy"
    real.mkdir(parents=True)
    for folder in (real.parent, real):
        (folder / "__init__.py").touch()
    (real / "base_bidding_strategy.py").write_text("class BaseBiddingStrategy:\n    real = True\n")
    mine = tmp_path / "mine"
    mine.mkdir()
    _write(mine, mine=SIMPLE)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path / "site")
        assert load_strategies(mine)["First"].real
        assert Path(sys.modules["bidding_train_env"].__file__ or "").parent == real.parent
        for name in [name for name in sys.modules if name.partition(".")[0] == "bidding_train_env"]:
            del sys.modules[name]


def test_inside_a_checkout_its_own_packages_are_used(tmp_path: Path) -> None:
    folder = tmp_path / "strategy_train_env" / "bidding_train_env" / "strategy"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").touch()
    (folder.parent / "common.py").write_text("FACTOR = 3\n")
    base = "class BaseBiddingStrategy:\n    own = True\n    def bidding(self, *a):\n        raise NotImplementedError\n"
    (folder / "base_bidding_strategy.py").write_text(base)
    _write(folder, mine=f"from bidding_train_env.common import FACTOR\n{dedent(SIMPLE)}")
    assert load_strategies(folder / "mine.py")["First"].own


def test_a_directory_names_classes_apart(tmp_path: Path) -> None:
    same = SIMPLE.replace("First", "PlayerBiddingStrategy")
    _write(tmp_path, a=same, b=same.replace("Second", "Third"), helper_of_mine="X = 1", _hidden="raise RuntimeError")
    found = load_strategies(tmp_path)
    assert list(found) == ["a.PlayerBiddingStrategy", "Second", "b.PlayerBiddingStrategy", "Third"]
    assert found["a.PlayerBiddingStrategy"] is not found["b.PlayerBiddingStrategy"]


def test_what_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    _write(
        tmp_path,
        mine=SIMPLE,
        empty="class NoStrategy:\n    pass\n",
        broken="class Broken(:\n",
        raises="1 / 0",
        needs="import bidding_train_env.baseline.iql\n",
    )
    (tmp_path / "notes.txt").touch()
    cases = {
        f"{tmp_path}/nothing.py": "no such file or directory",
        f"{tmp_path}/nothing.py:First": "no such file or directory",
        f"{tmp_path}/notes.txt": "strategies are Python files",
        f"{tmp_path}/mine.py:Nobody": "has no class Nobody; its strategy classes are: First, Second",
        f"{tmp_path}/empty.py:NoStrategy": "NoStrategy is no strategy, it has no method bidding",
        f"{tmp_path}/empty.py": "defines no class with a method bidding",
        f"{tmp_path}/broken.py": "SyntaxError",
        f"{tmp_path}/raises.py": "ZeroDivisionError",
        f"{tmp_path}/needs.py": "No module named 'bidding_train_env.baseline'; of AuctionNet only",
        f"{tmp_path}:First": "is a directory",
    }
    for source, words in cases.items():
        with pytest.raises(StrategyError) as error:
            load_strategies(source)
        assert words in str(error.value), source


def test_the_example_plays() -> None:
    found = load_strategies(f"{EXAMPLE}:TargetPacing")
    env = SmallMarket(ticks=8)
    played = play(env, env.default_params(), jax.random.key(1), {SEAT: found["TargetPacing"]})
    assert played.metrics["value"] > 0.0
    assert played.record is not None
    seat = played.record.seat
    levels = [float(np.max(tick.bid[seat] / tick.p_value[seat])) for tick in played.record.ticks]
    assert levels[0] == pytest.approx(60.0 + 10.0 * seat, rel=1e-5)
    assert len({round(level, 3) for level in levels}) > 4  # it answers to its history
