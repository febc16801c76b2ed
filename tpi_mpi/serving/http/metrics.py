"""Figures for monitoring, in Prometheus's format."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from tpi_mpi.serving.accounts import Accounts
from tpi_mpi.serving.desk import Desk
from tpi_mpi.serving.http.exchange import Exchange
from tpi_mpi.serving.supervisor import Status, Supervisor

# Seconds: a model in memory answers at once, a streaming one takes its time.
_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_OF_RANKS = {
    "resident_bytes": "Memory that a rank has now",
    "peak_rss_bytes": "Memory that a rank has had at most",
    "disk_bytes_per_s": "What a rank read from its disk in the last sweeps",
}


class Metrics:
    """What has been asked, and what the server and its ranks do."""

    def __init__(self, desk: Desk, supervisor: Supervisor, accounts: Accounts):
        self._registry = CollectorRegistry()
        self._registry.register(_Gauges(desk, supervisor, accounts))
        kinds = {"labelnames": ("status",), "registry": self._registry}
        self._requests = Counter("tpi_requests", "Requests for text that have ended, by HTTP status", **kinds)
        tokens = {"labelnames": ("kind",), "registry": self._registry}
        self._tokens = Counter("tpi_tokens", "Tokens of prompts, those of them in the cache, and new ones", **tokens)
        times = {"buckets": _BUCKETS, "registry": self._registry}
        self._first = Histogram("tpi_first_token_seconds", "From a request to the first token of its answer", **times)
        self._whole = Histogram("tpi_request_seconds", "From a request to the end of its answer", **times)

    def refused(self, status: int) -> None:
        """Takes note of a request for text that did not come so far."""
        self._requests.labels(status).inc()

    def ended(self, exchange: Exchange, now: float) -> None:
        """Takes note of a request for text."""
        usage = exchange.order.usage()
        self._requests.labels(exchange.status).inc()
        self._tokens.labels("prompt").inc(usage["prompt_tokens"])
        self._tokens.labels("cached").inc(usage["prompt_tokens_details"]["cached_tokens"])
        self._tokens.labels("new").inc(usage["completion_tokens"])
        if exchange.first is not None:
            self._first.observe(exchange.first - exchange.began)
            self._whole.observe(now - exchange.began)

    def text(self) -> bytes:
        """All figures, as Prometheus reads them."""
        return generate_latest(self._registry)


class _Gauges(Collector):
    """What is so at the moment."""

    def __init__(self, desk: Desk, supervisor: Supervisor, accounts: Accounts):
        self._desk, self._supervisor, self._accounts = desk, supervisor, accounts

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        ready = float(self._supervisor.status is Status.READY)
        yield GaugeMetricFamily("tpi_ready", "Whether the engine is ready", ready)
        yield GaugeMetricFamily("tpi_running", "Sequences that are under way", len(self._desk.running))
        yield GaugeMetricFamily("tpi_waiting", "Sequences that wait", len(self._desk.waiting))
        yield CounterMetricFamily("tpi_restarts", "How often the engine was started again", self._supervisor.restarts)
        for key, total in self._accounts.totals().items():
            yield CounterMetricFamily(f"tpi_engine_{key}", f"The engine's {key.replace('_', ' ')}", total)
        ranks = self._accounts.ranks()
        for key, text in _OF_RANKS.items():
            gauge = GaugeMetricFamily(f"tpi_rank_{key}", text, labels=("rank", "host"))
            for rank in ranks:
                gauge.add_metric((str(rank["rank"]), rank["host"]), rank[key])
            yield gauge
