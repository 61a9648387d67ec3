"""A strategy in AuctionNet's style, unchanged between there and here.

It bids a multiple of its target on the predictions, and moves that multiple so that its spend keeps up with the traffic seen so
far and its cost per conversion stays under the target. In adarena::

    from adarena.envs.adapters.auctionnet import load_strategies
    from adarena.envs.adapters.auctionnet_host import StrategyPolicy

    policy = StrategyPolicy(load_strategies("examples/auctionnet_strategy.py:TargetPacing")["TargetPacing"])
"""

import numpy as np
from bidding_train_env.strategy.base_bidding_strategy import BaseBiddingStrategy


class TargetPacing(BaseBiddingStrategy):
    """Paces spend evenly over ticks and keeps to the target; reads only what AuctionNet tells."""

    ticks = 48
    gain = 0.3

    def __init__(self, budget=100, name="TargetPacing", cpa=2, category=1):
        """As AuctionNet constructs it; the host sets budget, cpa and category afterwards."""
        super().__init__(budget, name, cpa, category)
        self.level = 1.0

    def reset(self):
        """Starts an episode at the target."""
        self.remaining_budget = self.budget
        self.level = 1.0

    def bidding(
        self,
        timeStepIndex,
        pValues,
        pValueSigmas,
        historyPValueInfo,
        historyBid,
        historyAuctionResult,
        historyImpressionResult,
        historyLeastWinningCost,
    ):
        """Bids level x target x prediction."""
        if timeStepIndex > 0:
            cost, promised = 0.0, 0.0
            for tick in range(timeStepIndex):
                exposed = historyImpressionResult[tick][:, 0]
                cost += np.sum(historyAuctionResult[tick][:, 2] * exposed)
                promised += np.sum(historyPValueInfo[tick][:, 0] * exposed)
            planned = self.budget * timeStepIndex / self.ticks
            behind = np.log((planned + 1.0) / (cost + 1.0))
            room = np.log((self.cpa * promised + 1.0) / (cost + 1.0))
            self.level *= np.exp(self.gain * np.clip(min(behind, room), -1.0, 1.0))
        return self.level * self.cpa * pValues
