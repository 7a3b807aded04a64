"""Figures for Prometheus: ``pip install 'danube-trio[prometheus]'``; docs/metrics.md has all."""

try:
    from danube_trio.prometheus._collector import DanubeCollector, Shown
    from danube_trio.prometheus._serve import open_metrics_server
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "prometheus_client":
        raise
    raise ModuleNotFoundError(
        "danube_trio.prometheus needs the package prometheus_client: "
        "pip install 'danube-trio[prometheus]'",
        name=error.name,
    ) from error

__all__ = ["DanubeCollector", "Shown", "open_metrics_server"]
