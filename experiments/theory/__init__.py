"""Analytic truths about auctions and bidding, computed and simulated side by side; `adarena.experiments.verify` prints them."""
