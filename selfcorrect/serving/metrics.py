"""`Metrics`: what the server counts, for ``/metrics`` in Prometheus's format. Texts and keys are in none of it."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from selfcorrect.serving.sources import Finished

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
SHARES = tuple(n / 10 for n in range(1, 11))


class Metrics:
    """The counters of one server; each has the prefix ``selfcorrect_``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = lambda name, what, *labels: Counter(f"selfcorrect_{name}", what, labels, registry=self.registry)
        histogram = lambda name, what, buckets, *labels: Histogram(
            f"selfcorrect_{name}", what, labels, buckets=buckets, registry=self.registry
        )
        self.requests = counter("requests", "Requests by address and HTTP status.", "address", "status")
        self.refused = counter("refused", "Requests refused before they reached the model.", "reason")
        self.left = counter("clients_left", "Answers that were dropped because the client went away.")
        self.under_way = Gauge("selfcorrect_samples_under_way", "Trajectories being sampled.", registry=self.registry)
        self.tokens = counter("tokens", "Tokens of finished trajectories.", "kind")
        self.trajectories = counter("trajectories", "Finished trajectories by how they ended.", "stop")
        self.verdicts = counter("verdicts", "Self-evaluations by verdict.", "verdict")
        self.attempts = histogram("attempts", "Attempts of a trajectory.", (1, 2, 3, 4, 8))
        self.p_correct = histogram("p_correct", "P(correct) of self-evaluations.", SHARES)
        self.first_text_s = histogram("first_text_seconds", "From a request to its first text.", SECONDS)
        self.answer_s = histogram("answer_seconds", "From a request to its whole answer.", SECONDS)

    def finished(self, one: Finished) -> None:
        """Count a trajectory."""
        path = one.trajectory
        self.trajectories.labels(str(path.stop) or "unknown").inc()
        self.attempts.observe(len(path.attempts))
        self.tokens.labels("prompt").inc(one.usage.prompt)
        self.tokens.labels("reasoning").inc(one.usage.reasoning)
        self.tokens.labels("answer").inc(one.usage.completion - one.usage.reasoning)
        for evaluation in path.evaluations:
            self.verdicts.labels("none" if evaluation.verdict is None else str(evaluation.verdict)).inc()
            if evaluation.p_correct is not None:
                self.p_correct.observe(evaluation.p_correct)

    def text(self) -> bytes:
        """Return all counts as Prometheus reads them."""
        return generate_latest(self.registry)


class Clock:
    """The times of one request, for the two histograms."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._began, self._spoke = metrics, time.monotonic(), False

    def spoke(self) -> None:
        """Note that text is sent; the first time counts."""
        if not self._spoke:
            self._spoke = True
            self._metrics.first_text_s.observe(time.monotonic() - self._began)

    def ended(self) -> None:
        """Note that the answer is whole."""
        self._metrics.answer_s.observe(time.monotonic() - self._began)
