"""A service whose vectors lie in Milvus: what it says while that is away; and it comes back."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from services import Load, eventually, kill, served

from bench._milvus import MilvusServer, milvus_server
from cllm.errors import InputError, WorkError
from cllm.run import SHIPPED, RunFolder
from cllm.store import VectorStore, collection_of, load_latents
from serve.client import Client, Refused
from serve.generation import GONE
from serve.schemas import End, Generate

pytestmark = [
    pytest.mark.serve,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def milvus(tmp_path: Path) -> Iterator[MilvusServer]:
    with milvus_server(tmp_path / "milvus") as server:
        yield server


def test_without_milvus_texts_come_without_their_neighbours_until_it_is_back(
    milvus: MilvusServer, tmp_path: Path
) -> None:
    _fill(milvus)
    asked = Generate(n=2, topic="soup leeks", seed=1, neighbours=1)
    words = ["--run", str(SHIPPED), "--models", "1", "--milvus", milvus.uri]
    with served(tmp_path, *words) as (process, told):
        client = Client(told["url"])
        with Load(client, asked) as load:
            load.more(4)
            assert not load.notes
            milvus.kill()
            load.more(6)
            assert set(load.notes) == {GONE}
            with pytest.raises(Refused, match="the store does not answer") as no:
                client.neighbours(["title: leek soup."], 1)
            assert no.value.status == 503
            assert no.value.retry_after
            assert client.ready(), "texts can be written all the same"
            assert not _store(client)
            milvus.start()
            eventually(lambda: _store(client), 60)
            assert client.neighbours(["title: leek soup."], 1)
            load.more(4)  # those in work among them
            load.notes.clear()
            load.more(4)
        assert not load.failed
        assert not load.notes
        assert len({tuple(texts) for texts in load.texts}) == 1
        milvus.kill()
        for part in ("store", "api"):  # which are there again without it
            kill(process, part)
        eventually(lambda: _notes(client, asked) == [GONE], 60)


def _store(client: Client) -> bool:
    with urlopen(f"{client.url}/v1/ready", timeout=60) as answer:
        return bool(json.load(answer)["store"])


def _notes(client: Client, asked: Generate) -> list[str] | None:
    try:
        *_, end = client.generate(asked)
    except (InputError, WorkError):
        return None
    assert isinstance(end, End)
    return end.notes


def _fill(milvus: MilvusServer) -> None:
    """With the vectors of the shipped run, as `cllm embed --milvus` does."""
    run = RunFolder(SHIPPED)
    latents = load_latents(run.latents)
    name = collection_of(run.load_corpus().hash, latents.model_hash)
    eventually(lambda: _listens(milvus.port), 60)
    store = VectorStore.open(milvus.uri, name, latents.model_hash, latents.vectors_ND.shape[1])
    store.upsert(latents)
    store.flush()
    store.close()


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
