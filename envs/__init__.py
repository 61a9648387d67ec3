"""Environments of adarena. Importing this package registers every one of them with Gymnasium."""

from typing import Any

from adarena.envs.autobid import AutoBid
from adarena.envs.coldstart import ColdStart
from adarena.envs.core import AutoReset, Entry, Env, StepResult
from adarena.envs.lifecycle import Lifecycle
from adarena.envs.registry import add_plugins, make, register, registered

REPLAY = {
    "traffic": "replay",
    "advertisers": 1,
    "categories": 1,
    "slots": 1,
    "mechanism": "second_price",
    "objective": "budget",
}
"""What makes an AutoBid market replay a log; ``traffic="ipinyou:PATH"`` replays yours."""

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "steady": {"drift_pattern": 0.0, "drift_noise": 0.0, "traffic_noise": 0.0},
    "erratic": {"drift_pattern": 0.0, "drift_noise": 0.6, "traffic_noise": 0.4},
    "noisy": {"prediction_error": True, "error_noise": 0.3},
    # Rows whose length is a power of two share cache lines: with 2,048 impressions a block, clearing takes twice as long.
    "auctionnet": {"traffic": "auctionnet", "impressions": 1040, "tick_blocks": 32, "blocks": 256},
}
"""Changes of AutoBid's default market, for ``make("adarena/AutoBid-v0", **PRESETS[name])``: nothing to foresee, little that can
be foreseen, predictions that err, and AuctionNet's own market: 500,000 impressions a day, each of them simulated."""

register("adarena/AutoBid-v0", AutoBid)
register("adarena/Replay-v0", AutoBid, **REPLAY)
register("adarena/ColdStart-v0", ColdStart)
register("adarena/Lifecycle-v0", Lifecycle)
add_plugins()

__all__ = [
    "PRESETS",
    "REPLAY",
    "AutoBid",
    "AutoReset",
    "ColdStart",
    "Entry",
    "Env",
    "Lifecycle",
    "StepResult",
    "make",
    "register",
    "registered",
]
