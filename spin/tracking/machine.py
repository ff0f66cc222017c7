"""The machine while a stage runs, by MLflow's own sampler: processor, memory, disk, network, GPUs."""

import logging
import os
import time
from typing import Any

from spin.tracking.connection import set_patience

logger = logging.getLogger(__name__)


class MachineSampler:
    """Every ten seconds, or `MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL`; `MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false` ends it."""

    def __init__(self, tracking_uri: str) -> None:
        self._uri = tracking_uri
        self._monitor: Any = None
        self._next = 0.0
        self._on = os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() != "false"

    def sample(self) -> dict[str, float]:
        """The numbers of now under MLflow's names; empty when it is not time yet, or where they cannot be had."""
        if not self._on or time.monotonic() < self._next:
            return {}
        try:
            if self._monitor is None:
                set_patience()
                from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

                self._monitor = SystemMetricsMonitor("", tracking_uri=self._uri)
            self._monitor.collect_metrics()
            numbers: dict[str, float] = self._monitor.aggregate_metrics()
            for each in self._monitor.monitors:
                each.clear_metrics()
        except Exception as error:  # no psutil, a driver that does not answer
            logger.debug("the machine is not sampled (%s)", error)
            self._on = False
            return {}
        self._next = time.monotonic() + self._monitor.sampling_interval
        return numbers
