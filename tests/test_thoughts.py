"""The reasoning bidder's vocabulary: words by their edges, what a logged day says of their truth, and what is refused."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adarena import envs
from adarena.agents.offline import thoughts
from adarena.agents.offline.thoughts import LENGTH, READ, SIZES, SLOTS, WIDTH, Slot

CHAINS = st.tuples(*(st.integers(0, size - 1) for size in SIZES)).map(lambda words: np.asarray(words, np.int32))
SEEN = dict.fromkeys(READ, 0.0) | {"progress": 0.2, "has_target": 1.0}


def _diagnosis(**changes: float) -> list[str]:
    words = thoughts.diagnose({name: jnp.float32(value) for name, value in (SEEN | changes).items()})
    return [slot.words[int(word)] for slot, word in zip(SLOTS, words, strict=False)]


def test_diagnosis_follows_from_what_is_seen() -> None:
    assert _diagnosis() == ["on", "at", "steady", "usual"]
    assert _diagnosis(pacing=0.2)[0] == "behind"  # more budget left than traffic: it spends too slowly
    assert _diagnosis(pacing=-0.2)[0] == "ahead"
    assert _diagnosis(cost_over_target=0.1)[1] == "over"
    assert _diagnosis(cost_over_target=-0.1)[1] == "under"
    assert _diagnosis(progress=0.0, cost_over_target=0.1)[1] == "unknown"
    assert _diagnosis(has_target=0.0)[1] == "unknown"
    assert _diagnosis(market_last=0.5, market_all=0.3)[2] == "harder"
    assert _diagnosis(market_last=0.3, market_all=0.5)[2] == "softer"
    assert _diagnosis(traffic_coming=0.3)[3] == "busy"


def _outcome(left: list[float], cost: float, tick: int, known: bool = True) -> list[str]:
    found = thoughts.outcome(jnp.asarray(left), jnp.float32(cost), jnp.asarray(known), jnp.asarray([tick]))[0]
    return [slot.words[int(word)] for slot, word in zip(SLOTS[4:6], found, strict=True)]


def test_forecasts_are_compared_with_how_the_day_ended() -> None:
    ends = [1.0, 0.8, 0.6, 0.4, 0.2, 0.01, 0.0, 0.0, 0.0]  # of eight ticks of three hours; spent before tick 5
    assert _outcome(ends, 0.0, 0) == ["gone today", "at"]
    assert _outcome(ends, 0.0, 3) == ["gone within 6 h", "at"]
    assert _outcome(ends, 0.0, 5)[0] == _outcome(ends, 0.0, 7)[0] == "gone within 2 h"
    assert _outcome([1.0, 0.5, 0.05], 0.3, 1) == ["just lasts", "far over"]
    assert _outcome([1.0, 0.5, 0.2], 0.1, 1) == ["some left", "over"]
    assert _outcome([1.0, 0.9, 0.8], -0.5, 1) == ["much left", "far under"]
    assert _outcome([1.0, 1.0, 1.0], 0.0, 0, known=False)[1] == "unknown"


def _course(multipliers: list[float], before: float, tick: int) -> list[str]:
    found = thoughts.course(jnp.log(jnp.asarray(multipliers)), jnp.log(jnp.asarray([before])), jnp.asarray([tick]))[0]
    return [slot.words[int(word)] for slot, word in zip(SLOTS[6:], found, strict=True)]


def test_plans_are_what_the_multiplier_did() -> None:
    still = [1.0] * 24  # ticks of an hour
    assert _course(still, 1.0, 0) == ["hold", "later"]
    assert _course(still, 1.0, 20) == ["hold", "6 h"]  # the day ends in four
    assert _course(still, 1.0, 23) == ["hold", "2 h"]
    raised = [1.0] * 4 + [1.3] * 3 + [0.5] * 17
    assert _course(raised, 1.0, 4) == ["up", "6 h"]
    assert _course(raised, 1.0, 7) == ["far down", "later"]
    assert _course(raised, 1.0, 6)[0] == "down"  # the mean of 1.3 and 0.5, of logs
    assert _course([1.08] * 24, 1.0, 0)[0] == "slightly up"


@settings(max_examples=50, deadline=None)
@given(CHAINS)
def test_a_chain_survives_its_words(chain: np.ndarray) -> None:
    np.testing.assert_array_equal(thoughts.parse(thoughts.spell(chain)), chain)
    assert all(word in thoughts.sentence(chain) for word in thoughts.spell(chain).values())
    told = np.asarray(thoughts.encode(jnp.asarray(chain)))
    assert told.shape == (WIDTH,)
    assert told.sum() == LENGTH
    wrong = np.asarray(thoughts.opposite(jnp.asarray(chain)))
    assert (wrong != chain).all()
    assert all(0 <= word < slot.ordered for word, slot in zip(wrong, SLOTS, strict=True))
    assert thoughts.closeness(jnp.asarray(chain), jnp.asarray(chain)) == 1.0
    assert thoughts.closeness(jnp.asarray(chain), jnp.asarray(wrong)) <= 0.5


def test_wrong_words_of_one_kind_leave_the_others() -> None:
    chain = jnp.zeros(LENGTH, jnp.int32)
    for kind in ("diagnosis", "forecast", "plan"):
        changed = np.asarray(thoughts.opposite(chain, (kind,))) != 0
        assert changed.tolist() == [slot.kind == kind for slot in SLOTS]


def test_truth_counts_distance() -> None:
    truth = thoughts.parse(
        {
            "pace": "on",
            "cost": "at",
            "market": "steady",
            "traffic": "usual",
            "budget": "gone today",
            "final cost": "at",
            "change": "hold",
            "until": "2 h",
        }
    )
    near, far = truth.copy(), truth.copy()
    near[4], far[4] = 3, 5
    assert thoughts.closeness(jnp.asarray(near), jnp.asarray(truth)) == pytest.approx(1.0 - 0.2 / 6)
    assert thoughts.closeness(jnp.asarray(far), jnp.asarray(truth)) == pytest.approx(1.0 - 0.6 / 6)
    unknown = truth.copy()
    unknown[5] = SLOTS[5].ordered
    assert thoughts.closeness(jnp.asarray(unknown), jnp.asarray(truth)) == pytest.approx(5 / 6)
    other = truth.copy()
    other[6] = 0  # a plan is neither true nor false
    assert thoughts.closeness(jnp.asarray(other), jnp.asarray(truth)) == 1.0


def test_the_reader_finds_entries_in_a_market() -> None:
    env, params = envs.make("adarena/AutoBid-v0", advertisers=4, ticks=4, impressions=4, blocks=4)
    reader = thoughts.reader_of(env, params)
    names = [entry.name for entry in env.OBSERVATION]
    assert tuple(names[place] for place in reader.places) == READ
    assert reader.log_range == pytest.approx(np.log(8.0), rel=1e-6)
    state16, params16 = envs.make(
        "adarena/AutoBid-v0", advertisers=4, ticks=4, impressions=4, blocks=4, observation="auctionnet"
    )
    with pytest.raises(KeyError, match="thoughts are about the observation entry 'pacing', which AutoBid lacks"):
        thoughts.reader_of(state16, params16)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pace must be one of 'behind', 'on', 'ahead', got 'late'"):
        thoughts.parse({"pace": "late"})
    said = thoughts.spell(np.zeros(LENGTH, np.int32))
    del said["until"]
    with pytest.raises(ValueError, match=r"until must be one of .*, got None"):
        thoughts.parse(said)
    with pytest.raises(ValueError, match="edges must rise"):
        Slot("x", "plan", ("a", "b", "c"), (1.0, 0.0), "")
    with pytest.raises(ValueError, match="edges must rise"):
        Slot("x", "plan", ("a", "b"), (0.0, 1.0), "")
    with pytest.raises(ValueError, match="places must be"):
        thoughts.Reader((0,), 1.0)
    with pytest.raises(ValueError, match="log_range must be"):
        thoughts.Reader(tuple(range(len(READ))), 0.0)
