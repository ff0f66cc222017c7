"""The machine while a stage runs, by MLflow's own sampler: processor, memory, disk, network, GPUs."""

import logging
import os
import time
from typing import Any

from spin.tracking.connection import set_patience

logger = logging.getLogger(__name__)

INTERVAL = "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL"


class MachineSampler:
    """Every ten seconds, or as that variable says; `MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false` ends it."""

    def __init__(self) -> None:
        self._monitors: list[Any] = []
        self._next, self._interval = 0.0, float(os.environ.get(INTERVAL, "10"))
        self._on = os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() != "false"

    def sample(self) -> dict[str, float]:
        """The numbers of now under MLflow's names; empty when it is not time yet, or where they cannot be had."""
        if not self._on or time.monotonic() < self._next:
            return {}
        numbers: dict[str, float] = {}
        try:
            self._monitors = self._monitors or _monitors()
            for each in self._monitors:
                each.collect_metrics()
                numbers |= each.aggregate_metrics()
                each.clear_metrics()
        except Exception as error:  # no psutil, a driver that does not answer
            logger.debug("the machine is not sampled (%s)", error)
            self._on = False
        self._next = time.monotonic() + self._interval
        return numbers


def _monitors() -> list[Any]:
    """MLflow's samplers that work here. Its `SystemMetricsMonitor` would open the store on its own, beside our lock."""
    set_patience()
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    found = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for gpu in (GPUMonitor, ROCMMonitor):
        try:
            found.append(gpu())
        except Exception:  # there is none of that kind
            continue
    return found
