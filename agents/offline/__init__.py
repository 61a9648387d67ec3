"""Learners that learn from logged episodes alone, and the data they learn from."""
