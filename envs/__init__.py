"""Environments of adarena. Importing this package registers every one of them with Gymnasium."""

from adarena.envs.autobid import AutoBid
from adarena.envs.core import AutoReset, Entry, Env, StepResult
from adarena.envs.registry import make, register, registered

REPLAY = {
    "traffic": "replay",
    "advertisers": 1,
    "categories": 1,
    "slots": 1,
    "mechanism": "second_price",
    "objective": "budget",
}
"""What makes an AutoBid market replay a log; ``traffic="ipinyou:PATH"`` replays yours."""

register("adarena/AutoBid-v0", AutoBid)
register("adarena/Replay-v0", AutoBid, **REPLAY)

__all__ = ["REPLAY", "AutoBid", "AutoReset", "Entry", "Env", "StepResult", "make", "register", "registered"]
