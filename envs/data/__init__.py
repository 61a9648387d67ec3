"""Real data: readers of auction logs, click probabilities for their rows, calibrations, and banks to replay."""

from adarena.envs.data.calibration import Calibration, CalibrationError
from adarena.envs.data.calibration.fit import fit_calibration
from adarena.envs.data.ipinyou import Log, read_log
from adarena.envs.data.layouts import LogError
from adarena.envs.data.pctr import PctrModel, PctrReport, fit_pctr
from adarena.envs.data.replay import ReplayArrays, replay_bank
from adarena.envs.data.report import BadLine, LogReport

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
