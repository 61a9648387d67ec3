"""Compiled programs kept on disk, so that the next process need not compile them again (JAX's persistent cache).

The ``adarena`` command keeps them by default; a program of your own does so when it calls `enable_compilation_cache`, or
when JAX's own variables ask for it. ``JAX_ENABLE_COMPILATION_CACHE=false`` switches it off in either case.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache.compilation_cache import reset_cache

_ALL_PROGRAMS = {"jax_persistent_cache_min_compile_time_secs": 0.0, "jax_persistent_cache_min_entry_size_bytes": -1}
"""Building a market and its first step compile small programs beside large ones; together they take a second."""


def default_cache_directory() -> Path:
    """``$XDG_CACHE_HOME/adarena/xla``, or ``~/.cache/adarena/xla`` where that variable is not set (or not absolute)."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "adarena" / "xla"


def enable_compilation_cache(directory: str | Path | None = None) -> Path | None:
    """Lets this process keep compiled programs on disk, small ones too, and use those that are there.

    What a user has asked JAX for stays as it is: a directory that is set already (``JAX_COMPILATION_CACHE_DIR``, or
    ``jax.config``) goes before the default one, ``JAX_ENABLE_COMPILATION_CACHE=false`` means that nothing is kept, and
    thresholds set by ``JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS`` or ``JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES``
    hold. JAX deletes nothing from the folder by itself; ``JAX_COMPILATION_CACHE_MAX_SIZE`` bounds it, and it may be deleted
    at any time. Whoever can write to the folder can run code in processes that read it, so a new one is its owner's alone.

    Programs found are the ones that would have been compiled: results are the same bits.

    Args:
        directory: Where to keep programs. None: where JAX was told to, else `default_cache_directory`.

    Returns:
        The folder; None where nothing will be kept, because the user has switched the cache off or because the default
        folder cannot be written.

    Raises:
        ValueError: ``directory`` is given and cannot be a folder that this process writes to.
    """
    settings: Any = jax.config  # made at run time: its names are unknown to a type checker
    if not settings.jax_enable_compilation_cache:
        return None
    known = settings.jax_compilation_cache_dir
    if directory is None and known:
        folder = Path(known)
    else:
        folder = default_cache_directory() if directory is None else Path(directory)
        if not _writable(folder):
            if directory is None:
                return None
            raise ValueError(f"directory must be a folder that can be written, got {str(directory)!r}")
        settings.update("jax_compilation_cache_dir", str(folder.absolute()))
    for name, value in _ALL_PROGRAMS.items():
        if name.upper() not in os.environ:
            settings.update(name, value)
    reset_cache()  # what was compiled before may have settled that there is no cache
    return folder


def _writable(folder: Path) -> bool:
    """Whether there is such a folder to write to, made if there was none."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def drop_programs(most: int = 30_000) -> bool:
    """Forgets compiled programs where there are so many that a process could soon hold no more.

    Linux lets a process map some 65,000 pieces of memory, compiled programs take many each, and a process that wants more is
    ended by the compiler. What is used again is compiled again, or read from the cache on disk.

    Args:
        most: Pieces of memory above which programs are forgotten.

    Returns:
        Whether they were.
    """
    try:
        with open("/proc/self/maps", "rb") as handle:
            maps = sum(1 for _ in handle)
    except OSError:  # no Linux, no such limit
        return False
    if maps <= most:
        return False
    jax.clear_caches()
    gc.collect()
    return True
