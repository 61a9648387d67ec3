"""Experiments: protocol of comparison, run folders, the command line."""
