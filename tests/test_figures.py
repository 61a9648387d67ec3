"""Figures from synthetic tables: drawn, readable back, the same bytes twice, and clear about what is missing."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib.colors import to_rgb

from adarena.agents.rules import RULES
from adarena.experiments.bench_growth import growth
from adarena.experiments.statistics import Interval, iqm
from adarena.paper_figs import fig_curves, fig_day, fig_scores, fig_throughput, make, style

MECHANISMS = ("gsp", "first_price", "vcg")
BUDGETS = (0.5, 0.75, 1.0, 1.25, 1.5)
QUALITY = {
    "random": 0.2,
    "constant": 0.62,
    "budget_pacer": 0.6,
    "pid_target": 0.7,
    "pid_pacing": 0.66,
    "dual_descent": 0.74,
    "min_pacing": 0.76,
    "online_lp": 0.72,
    "landscape_shader": 0.77,
    "ppo": 0.88,
    "best_constant": 0.93,
    "sb3_ppo": 0.82,
}


def score_table(
    seeds: int = 4, markets: int = 4, seats: int = 2, mechanisms: tuple[str, ...] = MECHANISMS
) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    grid = [(m, s, b) for m in range(markets) for s in range(seats) for b in BUDGETS]
    market, seat, budget = (np.asarray(x) for x in zip(*grid, strict=True))
    parts = []
    for mechanism in mechanisms:
        bound = 30.0 * np.exp(0.3 * rng.normal(size=len(grid))) * budget**0.7
        for policy, quality in QUALITY.items():
            kind = "oracle" if policy == "best_constant" else "learner" if "ppo" in policy else "rule"
            for seed in range(seeds) if kind == "learner" else [-1]:
                share = np.clip(quality + 0.05 * rng.normal(size=len(grid)) + 0.02 * rng.normal(), 0.05, 0.99)
                parts.append(
                    pl.DataFrame(
                        {
                            "mechanism": mechanism,
                            "policy": policy,
                            "kind": kind,
                            "seed": seed,
                            "case": np.arange(len(grid)),
                            "market": market,
                            "seat": seat,
                            "budget_scale": budget,
                            "score": (bound * share).astype(np.float32),
                            "hindsight_score": bound.astype(np.float32),
                        }
                    )
                )
    return pl.concat(parts)


def curve_table(seeds: int = 4) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    steps = np.arange(1, 61) * 50_000
    rows = [
        pl.DataFrame(
            {
                "mechanism": mechanism,
                "seed": seed,
                "step": steps,
                "episode_return": 26.0 - 14.0 * np.exp(-steps / 6e5) + rng.normal() * 0.5 + rng.normal(size=60) * 0.6,
                "entropy": np.linspace(1.0, 0.2, 60),
                "explained_variance": np.linspace(0.0, 0.9, 60),
            }
        )
        for mechanism in MECHANISMS
        for seed in range(seeds)
    ]
    return pl.concat(rows)


def day_table(target: float = 90.0, mechanisms: tuple[str, ...] = ("gsp",)) -> pl.DataFrame:
    rng = np.random.default_rng(2)
    tick = np.arange(48)
    traffic = 1.0 + 0.7 * np.sin((tick - 16) / 48 * 2 * np.pi)
    traffic /= traffic.sum()
    parts = []
    for mechanism in mechanisms:
        for policy, waste in (("landscape_shader", 1.15), ("ppo", 1.0)):
            spend = 3000.0 * 0.96 * traffic * np.exp(0.3 * rng.normal(size=48))
            spend[:2] = 0.0
            value = spend / (90.0 * waste) * np.exp(0.2 * rng.normal(size=48))
            over = np.cumsum(spend) / np.maximum(np.cumsum(value) * 90.0, 1e-9)
            parts.append(
                pl.DataFrame(
                    {
                        "mechanism": mechanism,
                        "policy": policy,
                        "tick": tick,
                        "hour": (tick + 1) / 2,
                        "spend": spend,
                        "price": 0.04 * np.exp(0.2 * rng.normal(size=48)),
                        "own_price": np.where(spend > 0.0, 0.035 * np.exp(0.3 * rng.normal(size=48)), 0.0),
                        "multiplier": np.exp(0.4 * rng.normal(size=48)),
                        "cost_over_target": over,
                        "win_rate": 0.1 * rng.random(48),
                        "value": value,
                        "budget": 3000.0,
                        "target": target,
                        "traffic": traffic,
                    }
                )
            )
    return pl.concat(parts)


def throughput_table() -> pl.DataFrame:
    rng = np.random.default_rng(3)
    sizes = {
        "advertisers": [8, 16, 48, 128, 512],
        "impressions": [64, 256, 1024, 16384],
        "environments": [1, 4, 16, 64, 256, 1024],
        "slots": [1, 2, 3, 5],
        "slots, 8 advertisers": [1, 2, 4, 8, 16],
    }
    rows = [
        (axis, size, 1e-3 * (1 + size ** (1.5 if axis == "advertisers" else 1.0)) * np.exp(0.05 * rng.normal()))
        for axis, values in sizes.items()
        for size in values
        for _ in range(3)
    ]
    return pl.DataFrame(rows, schema=["axis", "size", "call_seconds"], orient="row").with_columns(
        memory_bytes=2**20 + 2**16 * pl.col("size")
    )


def write_tables(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    score_table().write_parquet(folder / "scores.parquet")
    curve_table().write_parquet(folder / "curves.parquet")
    day_table().write_parquet(folder / "day.parquet")
    throughput_table().write_parquet(folder / "throughput.parquet")
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tables(tmp_path_factory.mktemp("results"))


def test_draw_all_writes_each_figure_the_same_twice(results: Path, tmp_path: Path) -> None:
    first = make.draw_all(results, tmp_path / "a")
    assert sorted(p.name for p in first) == sorted(
        f"{m.NAME}.{e}" for m in make.FIGURES for e in ("pdf", "png", "json")
    )
    time.sleep(1.1)  # a time stamp would show now
    second = make.draw_all(results, tmp_path / "b")
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_absent_tables_are_skipped_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    throughput_table().write_parquet(tmp_path / "throughput.parquet")
    written = make.draw_all(tmp_path, tmp_path / "out")
    assert [p.name for p in written] == ["throughput.pdf", "throughput.png", "throughput.json"]
    said = "".join(capsys.readouterr())
    for name in ("scores", "day", "curves"):
        assert f"no {name}.parquet" in said


@pytest.mark.skipif(
    not style.DEFAULT_RESULTS.is_dir(), reason="the committed results are not installed with the package"
)
def test_committed_tables_have_the_columns_that_figures_read() -> None:
    for figure in make.FIGURES:
        assert len(style.read(style.DEFAULT_RESULTS, figure.TABLE, figure.COLUMNS)) > 0, figure.NAME


def test_no_results_folder(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match=r"results must be a folder.*nowhere"):
        make.draw_all(tmp_path / "nowhere", tmp_path)


@pytest.mark.parametrize("module", make.FIGURES, ids=lambda m: m.NAME)
def test_bad_tables_are_refused(module: object, results: Path, tmp_path: Path) -> None:
    table = pl.read_parquet(results / module.TABLE)  # type: ignore[attr-defined]
    lost = module.COLUMNS[-1]  # type: ignore[attr-defined]
    table.drop(lost).write_parquet(tmp_path / module.TABLE)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=f"{lost} not found"):
        module.draw(tmp_path)  # type: ignore[attr-defined]
    table.clear().write_parquet(tmp_path / module.TABLE)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="at least one row"):
        module.draw(tmp_path)  # type: ignore[attr-defined]


def test_unpaired_cases_are_refused(tmp_path: Path) -> None:
    table = score_table(mechanisms=("gsp",))
    table.filter((pl.col("policy") != "ppo") | (pl.col("case") != 3)).write_parquet(tmp_path / "scores.parquet")
    with pytest.raises(ValueError, match=r"ppo in gsp must have each of the 40 cases once a seed, got 156 rows"):
        fig_scores.draw(tmp_path)


def test_scores_figure_shows_the_numbers_of_the_table(results: Path) -> None:
    figure = fig_scores.draw(results)
    scores = fig_scores.scores_of(score_table(), "vcg")
    rule = fig_scores.best_rule(scores)
    assert rule is not None
    assert rule.policy == max(RULES, key=lambda name: iqm(scores[name].score))
    upper, lower = figure.axes[2], figure.axes[5]
    drawn = {container.lines[0].get_xdata()[0] for container in upper.containers}
    expected = {100.0 * float(iqm(one.score) / iqm(rule.hindsight)) for one in scores.values()}
    np.testing.assert_allclose(sorted(drawn), sorted(expected))
    heights = next(c for c in lower.containers if c.get_label() == "PPO").lines[0].get_ydata()
    at = rule.budget == 0.75
    ppo, best, bound = iqm(scores["ppo"].score[:, at]), iqm(rule.score[at]), iqm(rule.hindsight[at])
    np.testing.assert_allclose(heights[1], 100.0 * (ppo - best) / (bound - best))


def test_intervals_resample_seeds_for_learners_and_markets_for_rules() -> None:
    scores = fig_scores.scores_of(score_table(), "gsp")
    rule = fig_scores.best_rule(scores)
    assert rule is not None
    for name in ("ppo", "constant"):
        low, high = fig_scores.headroom_at(scores[name], rule, 1.0)[1:]
        assert low < high
    same = scores["ppo"]._replace(score=np.repeat(scores["ppo"].score[:1], 4, axis=0))
    interval = fig_scores.headroom_at(same, rule, 1.0)
    assert interval.low == pytest.approx(interval.high)  # seeds that agree leave nothing open


def test_a_budget_without_headroom_is_left_open() -> None:
    scores = fig_scores.scores_of(score_table(), "gsp")
    rule = fig_scores.best_rule(scores)
    assert rule is not None
    none_left = rule._replace(hindsight=np.where(rule.budget == 0.5, rule.score, rule.hindsight))
    assert np.isnan(fig_scores.headroom_at(scores["ppo"], none_left, 0.5).estimate)
    assert np.isfinite(fig_scores.headroom_at(scores["ppo"], none_left, 1.0).estimate)


@pytest.mark.parametrize(
    "keep",
    [pl.col("kind") == "rule", pl.col("kind") == "learner", pl.col("budget_scale") == 1.0, pl.col("market") == 0],
    ids=["rules", "learners", "one budget", "one market"],
)
def test_scores_of_a_small_run_are_drawn(keep: pl.Expr, tmp_path: Path) -> None:
    table = score_table(seeds=1, mechanisms=("second_price",)).filter(keep)
    table.write_parquet(tmp_path / "scores.parquet")
    written = style.save(fig_scores.draw(tmp_path), tmp_path, "scores")
    assert all(path.stat().st_size > 1000 for path in written)


def test_curves_show_every_seed_and_their_iqm(results: Path) -> None:
    steps, returns = fig_curves.curves_of(curve_table(), "gsp")
    assert returns.shape == (4, 60)
    ax = fig_curves.draw(results).axes[0]
    thick = next(line for line in ax.lines if line.get_label() == "IQM over seeds")
    np.testing.assert_allclose(thick.get_ydata(), iqm(returns, axis=0))
    np.testing.assert_allclose(thick.get_xdata(), steps / 1e6)
    rule = fig_scores.best_rule(fig_scores.scores_of(score_table(), "gsp"))
    assert rule is not None
    dashed = next(line for line in ax.lines if line.get_linestyle() == "--")
    assert dashed.get_ydata()[0] == pytest.approx(rule.score.mean())


def test_curves_leave_out_steps_without_returns_and_need_no_scores(tmp_path: Path) -> None:
    late = curve_table().with_columns(
        episode_return=pl.when((pl.col("step") == 50_000) & (pl.col("seed") == 1))
        .then(float("nan"))
        .otherwise(pl.col("episode_return"))
    )
    assert fig_curves.curves_of(late, "vcg")[0][0] == 100_000
    late.write_parquet(tmp_path / "curves.parquet")
    assert len(fig_curves.draw(tmp_path).axes) == 3


def test_day_shows_spend_plan_and_gaps(results: Path) -> None:
    axes = fig_day.draw(results).axes
    lines = {line.get_label(): line for line in axes[0].lines}
    day = day_table().filter(pl.col("policy") == "ppo")
    np.testing.assert_allclose(lines["PPO"].get_ydata(), 100.0 * np.cumsum(day["spend"].to_numpy()) / 3000.0)
    assert lines["budget, even over traffic"].get_ydata()[-1] == pytest.approx(100.0)
    own = next(line for line in axes[1].lines if line.get_marker() == style.look("ppo").marker)
    assert np.isnan(own.get_ydata()[:2]).all()  # nothing bought, no price
    assert np.isfinite(own.get_ydata()[2:]).all()


def test_day_without_target_or_traffic_and_with_several_mechanisms(tmp_path: Path) -> None:
    day_table(target=float("inf"), mechanisms=MECHANISMS).drop("traffic").write_parquet(tmp_path / "day.parquet")
    figure = fig_day.draw(tmp_path)
    assert len(figure.axes) == 12
    assert "Value so far" in {ax.get_ylabel() for ax in figure.axes}


def test_two_days_of_one_policy_are_refused(tmp_path: Path) -> None:
    pl.concat([day_table(), day_table()]).write_parquet(tmp_path / "day.parquet")
    with pytest.raises(ValueError, match="one day for each mechanism and policy"):
        fig_day.draw(tmp_path)


def test_throughput_lines_are_medians_and_memory_is_in_mebibytes(results: Path) -> None:
    axes = fig_throughput.draw(results).axes
    assert [ax.get_xlabel() for ax in axes[5:]] == list(fig_throughput._AXES.values())
    rows = throughput_table().filter(pl.col("axis") == "slots")
    middle = [rows.filter(pl.col("size") == n)["call_seconds"].median() for n in (1, 2, 3, 5)]
    np.testing.assert_allclose(axes[3].lines[1].get_ydata(), middle)
    np.testing.assert_allclose(axes[8].lines[1].get_ydata(), [1.0 + n / 16 for n in (1, 2, 3, 5)])
    slope = growth(throughput_table()).filter((pl.col("axis") == "advertisers") & (pl.col("quantity") == "time"))
    assert f"slope {slope['exponent'][0]:.2f}" in axes[0].texts[0].get_text()


def test_throughput_guides_rise_as_fast_as_the_size(results: Path) -> None:
    for ax in fig_throughput.draw(results).axes:
        guides = [line for line in ax.lines if line.get_label() == "linear"]
        assert len(guides) >= 2
        for guide in guides:
            x, y = np.log(guide.get_xdata()), np.log(guide.get_ydata())
            assert (y[-1] - y[0]) / (x[-1] - x[0]) == pytest.approx(1.0)


def test_throughput_of_one_size_is_drawn_and_bad_numbers_are_refused(tmp_path: Path) -> None:
    one = throughput_table().filter(pl.col("size") == 16)
    one.write_parquet(tmp_path / "throughput.parquet")
    assert not any(ax.texts for ax in fig_throughput.draw(tmp_path).axes[:2])  # a slope takes two sizes
    for column in fig_throughput.COLUMNS[1:]:
        throughput_table().with_columns(pl.lit(0.0).alias(column)).write_parquet(tmp_path / "throughput.parquet")
        with pytest.raises(ValueError, match=rf"{column} must be positive, got 0\.0"):
            fig_throughput.draw(tmp_path)


def test_every_policy_has_a_look_of_its_own() -> None:
    looks = [style.look(name) for name in (*RULES, "ppo", "sb3_ppo", "sb3_sac")]
    assert len({look.name for look in looks}) == len(looks)
    assert len({(look.colour, look.marker) for look in looks}) == len(looks)
    for look in (*looks, style.look("someone's own")):
        assert len(to_rgb(look.colour)) == 3
    assert style.look("someone's own") == style.look("someone's own")


def test_error_bars_never_turn_round() -> None:
    bars = style.errors([Interval(1.0, 0.5, 2.0), Interval(1.0, 1.1, 1.2), Interval(1.0, np.nan, np.nan)])
    np.testing.assert_allclose(bars, [[0.5, 0.0, np.nan], [1.0, 0.2, np.nan]])
