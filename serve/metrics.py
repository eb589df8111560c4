"""What Prometheus sees of a service, by Ray's own exporter on each node."""

from __future__ import annotations

from ray.util.metrics import Counter, Gauge, Histogram

SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120]
ROWS = [1, 2, 4, 8, 16, 32, 64, 128]
ROUTES = ("generate", "encode", "decode", "interpolate", "neighbours", "voids", "map", "model",
          "texts")  # fmt: skip


class Counts:
    """Of the replica that answers requests."""

    def __init__(self) -> None:
        labels = ("route", "status")
        self._requests = Counter("cllm_requests", "Requests answered.", labels)
        self._seconds = Histogram("cllm_request_seconds", "Time to answer.", SECONDS, ("route",))
        self._working = Gauge("cllm_in_flight", "Requests worked on.")
        self._verdicts = Counter("cllm_texts", "Texts written, by verdict.", ("verdict",))

    def request(self, path: str, status: int, took: float, working: int) -> None:
        """One was answered."""
        name = path.removeprefix("/v1/").partition("/")[0]
        route = name if name in ROUTES and path.startswith("/v1/") else "other"
        self._requests.inc(tags={"route": route, "status": str(status)})
        self._seconds.observe(took, tags={"route": route})
        self.working(working)

    def working(self, count: int) -> None:
        """So many are worked on."""
        self._working.set(count)

    def text(self, verdict: str) -> None:
        """One was written."""
        self._verdicts.inc(tags={"verdict": verdict})


class BatchCounts:
    """Of a replica that encodes and decodes."""

    def __init__(self) -> None:
        self._rows = Histogram("cllm_batch_rows", "Rows worked on together.", ROWS, ("work",))
        self._tokens = Counter("cllm_tokens", "Tokens read or written.", ("work",))
        self._waiting = Gauge("cllm_waiting", "Calls that no batch has taken yet.")

    def done(self, work: str, rows: int, tokens: int, waiting: int) -> None:
        """A batch was worked on, while so many calls came that wait for the next one."""
        self._waiting.set(waiting)
        if rows:
            self._rows.observe(rows, tags={"work": work})
        if tokens:
            self._tokens.inc(tokens, tags={"work": work})
