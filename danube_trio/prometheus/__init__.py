"""Figures for Prometheus: ``pip install danube-trio[prometheus]``; docs/metrics.md has them all."""

from danube_trio.prometheus._collector import DanubeCollector, Shown
from danube_trio.prometheus._serve import open_metrics_server

__all__ = ["DanubeCollector", "Shown", "open_metrics_server"]
