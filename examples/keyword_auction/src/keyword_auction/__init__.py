"""A keyword auction with a daily cap, and rules, for adarena."""

from keyword_auction.environment import KeywordAuction
from keyword_auction.mechanisms import midway
from keyword_auction.rules import EvenSpend, SharePacer

__all__ = ["EvenSpend", "KeywordAuction", "SharePacer", "midway"]
