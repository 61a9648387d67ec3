"""Policies: rules, learners, and what a policy is."""
