"""What a server counts, in the text that Prometheus reads.

Source: prometheus.io, exposition formats. Threads may share it.
"""

import bisect
import threading
from collections import Counter
from collections.abc import Callable, Sequence

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "hyperclip_"


class Histogram:
    """How many values are at most as large as each of some bounds, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts, self.sum = [0] * (len(self.bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> list[str]:
        """Its lines for Prometheus: a bucket has the values of all smaller ones, too."""
        total, lines = 0, []
        for bound, count in zip((*self.bounds, None), self.counts, strict=True):
            total += count
            edge = "+Inf" if bound is None else f"{bound:g}"
            lines.append(f'{name}_bucket{{le="{edge}"}} {total}')
        return [*lines, f"{name}_sum {self.sum:g}", f"{name}_count {total}"]


class Metrics:
    """Counters by a name and a label, two histograms, and values that are asked for when read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, tuple[str, str, Counter[str]]] = {}
        self._histograms: dict[str, tuple[str, Histogram]] = {}
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self.counter("requests_total", "status", "requests to /segment by status")
        self.counter("errors_total", "kind", "refused requests by their kind")
        self.counter("cache_hits_total", "cache", "found in a cache")
        self.counter("cache_misses_total", "cache", "not found in a cache")
        self.histogram("batch_size", SIZES, "requests that were answered together")
        self.histogram("request_seconds", SECONDS, "from a request's head to its answer")

    def counter(self, name: str, label: str, meaning: str) -> None:
        """Declare a counter."""
        self._counters[name] = (label, meaning, Counter())

    def histogram(self, name: str, bounds: Sequence[float], meaning: str) -> None:
        """Declare a histogram."""
        self._histograms[name] = (meaning, Histogram(bounds))

    def gauge(self, name: str, value: Callable[[], float], meaning: str) -> None:
        """Declare a value that is asked for when read."""
        self._gauges[name] = (meaning, value)

    def count(self, name: str, label: str) -> None:
        """Count one more, under a label's value."""
        with self._lock:
            self._counters[name][2][label] += 1

    def observe(self, name: str, value: float) -> None:
        """Add a value to a histogram."""
        with self._lock:
            self._histograms[name][1].add(value)

    def looked_up(self, cache: str, found: bool) -> None:
        """Count a look into a cache."""
        self.count("cache_hits_total" if found else "cache_misses_total", cache)

    def text(self) -> str:
        """All of it for Prometheus."""
        lines: list[str] = []
        with self._lock:
            for name, (label, meaning, values) in self._counters.items():
                lines += _head(name, "counter", meaning)
                lines += [f'{PREFIX}{name}{{{label}="{v}"}} {n}' for v, n in sorted(values.items())]
            for name, (meaning, histogram) in self._histograms.items():
                lines += [*_head(name, "histogram", meaning), *histogram.lines(PREFIX + name)]
        for name, (meaning, value) in self._gauges.items():
            lines += [*_head(name, "gauge", meaning), f"{PREFIX}{name} {value():g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, meaning: str) -> list[str]:
    return [f"# HELP {PREFIX}{name} {meaning}", f"# TYPE {PREFIX}{name} {kind}"]
