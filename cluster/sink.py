"""Write vectors from many workers into one Milvus collection, safely retried.

Rows have ids of their own and are upserted, so that writing twice changes nothing. The
collection is filled under a name of its own; the alias that readers use is switched to it when
all rows are there.
    sink = MilvusSink(uri, "texts_ab12_v3", "texts_ab12", model_hash, dim, rows)
    sink.fill(lambda: dataset.write_datasink(sink))
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from ray.data import Datasink
from ray.data.block import Block, BlockAccessor

from cllm.errors import InputError, WorkError
from cllm.store import NoAnswer, VectorStore

log = logging.getLogger(__name__)

BATCH = 1000
RETRIED_SECONDS = 120.0  # a server that restarts is waited for
FIRST_WAIT, LONGEST_WAIT = 0.5, 10.0


class MilvusSink(Datasink[int]):
    """Upserts rows `id, split, vector`; returns how many were sent."""

    def __init__(
        self, uri: str, collection: str, alias: str, model_hash: str, dim: int, rows: int
    ) -> None:
        self.uri, self.collection, self.alias = uri, collection, alias
        self.model_hash, self.dim, self.rows = model_hash, dim, rows

    def on_write_start(self, schema: Any = None) -> None:  # noqa: ANN401 - Ray's
        """Make the collection, once, before any worker writes."""
        del schema
        self._open(create=True).close()

    def write(self, blocks: Iterable[Block], ctx: Any) -> int:  # noqa: ANN401 - Ray's
        """Upsert some blocks; the client lives here only and is never sent anywhere."""
        del ctx
        store, sent = self._open(create=False), 0
        try:
            for block in blocks:
                table = BlockAccessor.for_block(block).to_arrow()
                for start in range(0, len(table), BATCH):
                    part = table.slice(start, BATCH).select(["id", "split", "vector"])
                    rows = part.to_pylist()
                    store = self._patiently(store, rows)
                    sent += len(rows)
        finally:
            store.close()
        return sent

    def is_done(self) -> bool:
        """Whether all rows are there and readers see them."""
        try:
            store = self._open(create=False)
        except NoAnswer:
            raise
        except InputError:  # no such collection
            return False
        with store:
            return store.count() == self.rows and store.shown_by(self.alias)

    def count(self) -> int:
        """Rows that are there now."""
        with self._open(create=False) as store:
            return store.count()

    def fill(self, send: Callable[[], object]) -> None:
        """Send all rows, once more if a server lost some as it died, and let readers see them.

        WorkError: rows are missing even so.
        """
        send()
        if lost := self.missing():
            log.warning("Milvus at %s has %d rows of %d; all are sent once more", self.uri,
                        self.rows - lost, self.rows)  # fmt: skip
            send()
        self.publish()

    def missing(self) -> int:
        """Rows that are not there."""

        def counted() -> int:
            with self._open(create=False) as store:
                store.flush()
                return self.rows - store.count()

        return int(_retried(counted))

    def publish(self) -> None:
        """Let readers see it. WorkError: rows are missing."""
        if lost := self.missing():
            raise WorkError(
                f"Milvus at {self.uri}: collection {self.collection!r} has {self.rows - lost} rows "
                f"of {self.rows}; run the same command again"
            )

        def shown() -> None:
            with self._open(create=False) as store:
                store.publish(self.alias)

        _retried(shown)

    def _open(self, *, create: bool) -> VectorStore:
        return _retried(
            lambda: VectorStore.open(
                self.uri, self.collection, self.model_hash, self.dim, create=create
            )
        )

    def _patiently(self, store: VectorStore, rows: list[dict[str, Any]]) -> VectorStore:
        """Upsert, with a new client where the server went away; the client to go on with."""
        holder = [store]

        def send() -> None:
            try:
                holder[0].upsert_rows(rows)
            except NoAnswer:
                holder[0].close()
                holder[0] = self._open(create=False)
                raise

        _retried(send)
        return holder[0]


def _retried(call: Any) -> Any:  # noqa: ANN401 - what it gives
    """Try again, waiting longer each time, while Milvus does not answer."""
    begun, wait = time.monotonic(), FIRST_WAIT
    while True:
        try:
            return call()
        except NoAnswer:
            if time.monotonic() - begun > RETRIED_SECONDS:
                raise
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)
