"""Settings of every test process, made before JAX is imported."""

import gc
import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")  # tests leave nothing in a user's folders


@pytest.fixture(autouse=True, scope="module")
def _programs_are_dropped() -> Iterator[None]:
    """A process may map some 65,000 pieces of memory, compiled code among them; all programs of the suite are more."""
    yield
    import jax

    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """For files whose episodes are so few that compiling them well takes longer than playing them badly."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
