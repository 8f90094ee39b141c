"""Metrics of a server for Prometheus."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Metrics:
    """The metrics of a server, in a registry of their own."""

    registry: CollectorRegistry
    requests: Counter  # by status
    seconds: Histogram  # of requests, from their headers to their answer
    records: Counter  # answered
    sizes: Histogram  # of batches
    waiting: Gauge  # records without a worker
    running: Gauge  # requests without an answer
    reloads: Counter  # by outcome
    model: Gauge  # 1 for the version that answers


def metrics() -> Metrics:
    """Return new metrics."""
    registry, prefix = CollectorRegistry(), "thawline_serve"
    ProcessCollector(registry=registry)
    return Metrics(
        registry,
        Counter(f"{prefix}_requests", "Requests to predict, by status.", ["status"], registry=registry),
        Histogram(f"{prefix}_request_seconds", "Time to answer a request.", registry=registry, buckets=SECONDS),
        Counter(f"{prefix}_records", "Records that were answered.", registry=registry),
        Histogram(f"{prefix}_batch_records", "Records of a batch.", registry=registry, buckets=SIZES),
        Gauge(f"{prefix}_waiting_records", "Records that wait for a worker.", registry=registry),
        Gauge(f"{prefix}_running_requests", "Requests that wait for their answer.", registry=registry),
        Counter(f"{prefix}_reloads", "Looks for another version, by outcome.", ["outcome"], registry=registry),
        Gauge(f"{prefix}_model", "The version that answers.", ["model", "version", "engine"], registry=registry),
    )
