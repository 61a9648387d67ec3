"""Real data: readers of auction logs, click probabilities for their rows, calibrations, and banks to replay.

Names are imported when they are first used: most markets need none of the libraries behind them (polars, scipy).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adarena.envs.data.calibration import Calibration, CalibrationError
    from adarena.envs.data.calibration.fit import fit_calibration
    from adarena.envs.data.ipinyou import Log, read_log
    from adarena.envs.data.layouts import LogError
    from adarena.envs.data.pctr import PctrModel, PctrReport, fit_pctr
    from adarena.envs.data.replay import ReplayArrays, replay_bank
    from adarena.envs.data.report import BadLine, LogReport

_WHERE = {
    "BadLine": "report",
    "Calibration": "calibration",
    "CalibrationError": "calibration",
    "Log": "ipinyou",
    "LogError": "layouts",
    "LogReport": "report",
    "PctrModel": "pctr",
    "PctrReport": "pctr",
    "ReplayArrays": "replay",
    "fit_calibration": "calibration.fit",
    "fit_pctr": "pctr",
    "read_log": "ipinyou",
    "replay_bank": "replay",
}

__all__ = [
    "BadLine",
    "Calibration",
    "CalibrationError",
    "Log",
    "LogError",
    "LogReport",
    "PctrModel",
    "PctrReport",
    "ReplayArrays",
    "fit_calibration",
    "fit_pctr",
    "read_log",
    "replay_bank",
]


def __getattr__(name: str) -> Any:
    """Imports what is asked for (PEP 562)."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
