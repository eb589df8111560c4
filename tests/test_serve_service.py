"""`cllm serve` as a whole: started, asked, gone over to another run under load, ended."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from services import Load, eventually, kill, served

from bench._load import free_port
from bench._rubbish import answers, fault, rubbish
from cllm.errors import InputError, WorkError
from cllm.run import SHIPPED, SHIPPED_VOIDS, RunFolder
from serve.client import Client
from serve.generation import GONE
from serve.hosts import is_loopback
from serve.local import LocalHands, written
from serve.main import parser, settings_of
from serve.runs import name_of, run_of
from serve.schemas import End, Generate, Item
from serve.settings import ServeSettings

pytestmark = [pytest.mark.serve, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
FOLDER = Path(__file__).parents[1] / "serve"
README = FOLDER.parent / "README.md"
KNOWN = tuple(RunFolder(SHIPPED_VOIDS).load_trained_corpus().select("train").texts[:2])


@pytest.fixture(scope="module")
def service(tmp_path_factory: Any) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """A process that serves the shipped run, and what it told of itself."""
    with served(tmp_path_factory.mktemp("serve"), "--run", str(SHIPPED_VOIDS)) as one:
        yield one


@pytest.fixture(scope="module")
def hands() -> LocalHands:
    return LocalHands.load(RunFolder(SHIPPED_VOIDS))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", ["model", "index", "store"])
def test_no_request_fails_where_a_part_is_killed(
    service: tuple[subprocess.Popen[str], dict[str, str]], part: str
) -> None:
    process, told = service
    client, asked = Client(told["url"]), Generate(n=2, topic="soup leeks", seed=1, neighbours=1)
    with urlopen(f"{told['url']}/-/healthz") as answer:
        assert answer.status == 200
    right = [line.text for line in client.generate(asked) if isinstance(line, Item)]
    with Load(client, asked) as load:
        load.more(2)
        kill(process, part)
        load.more(6)
    assert not load.failed
    assert all(texts == right for texts in load.texts)
    assert set(load.notes) <= {GONE}  # where the store takes long: said, and texts all the same
    assert eventually(client.ready, 30)
    assert client.neighbours(right, 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_where_the_api_is_killed_only_what_it_worked_on_fails(
    service: tuple[subprocess.Popen[str], dict[str, str]],
) -> None:
    process, told = service
    client, asked = Client(told["url"]), Generate(n=2, topic="soup leeks", seed=1)
    with Load(client, asked, visitors=3, patient=True) as load:
        load.more(3)
        kill(process, "api")
        load.more(6)
        eventually(client.ready, 30)
    assert len(load.failed) <= load.visitors  # each has one request in work at most
    assert len({tuple(texts) for texts in load.texts}) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "asked",
    [
        {"void": 8}, {"near": KNOWN[0]}, {"between": KNOWN}, {"min_radius": 0.06},
        {"min_score": 2.2}, {"novel": True}, {"valid": True}, {"hit": True, "novel": True},
    ],
    ids=lambda asked: "-".join(asked),
)  # fmt: skip
def test_texts_come_from_where_they_are_asked_for_as_the_library_writes_them(
    service: tuple[subprocess.Popen[str], dict[str, str]], hands: LocalHands, asked: dict[str, Any]
) -> None:
    _, told = service
    wanted = Generate(n=2, seed=3, neighbours=1, vectors=True, **asked)
    *items, end = Client(told["url"]).generate(wanted)
    *alone, alone_end = written(hands, wanted)
    assert end == alone_end
    assert items
    for item, library in zip(items, alone, strict=True):
        assert isinstance(item, Item)
        assert isinstance(library, Item)
        assert item.text == library.text
        np.testing.assert_allclose(item.place.vector, library.place.vector, atol=1e-5)
        assert item.place.radius >= wanted.min_radius
        assert item.place.score >= wanted.min_score
        assert asked.get("void") in (None, item.place.void)
        assert not wanted.novel or item.verdict == "novel"
        assert not wanted.valid or item.valid
        assert not wanted.hit or item.hit


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_readme_asks_of_it_is_answered(
    service: tuple[subprocess.Popen[str], dict[str, str]],
) -> None:
    _, told = service
    asked = re.findall(r"^((?:curl|cllm generate --url) .*)$", README.read_text("utf-8"), re.M)
    assert {line.split()[0] for line in asked} == {"curl", "cllm"}
    for line in asked:
        here = re.sub(r"(http://)?(localhost|127\.0\.0\.1):8000", told["url"], line)
        assert here != line
        words = here.replace("cllm ", f"{Path(sys.executable).parent / 'cllm'} ", 1)
        done = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "soup" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_its_metrics_are_told_to_prometheus(
    service: tuple[subprocess.Popen[str], dict[str, str]],
) -> None:
    _, told = service
    list(Client(told["url"]).generate(Generate(n=2, topic="soup leeks", seed=1)))

    def scraped() -> set[str]:
        with urlopen(told["metrics"]) as answer:
            return set(re.findall(r"^ray_(cllm_\w+)\{", answer.read().decode(), re.M))

    shown = set(re.findall(r"ray_(cllm_\w+)", (FOLDER / "grafana.json").read_text("utf-8")))
    eventually(lambda: shown <= scraped(), 60)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_service_is_not_replaced_by_another_one(
    service: tuple[subprocess.Popen[str], dict[str, str]],
) -> None:
    _, told = service
    script = f"""
from serve import running
from serve.settings import ServeSettings
running.get_dashboard_url = lambda: {told["dashboard"].removeprefix("http://")!r}
print(running.Service.running("{told["dashboard"]}").told().address)
with running.Service.started(ServeSettings(run={str(SHIPPED_VOIDS)!r}), "127.0.0.1", 1):
    pass
"""
    env = os.environ | {"RAY_AUTH_MODE": "token"}  # which Ray reads once a process
    ended = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert "a service runs on that cluster already" in ended.stderr
    assert ended.stdout.strip() == str(("127.0.0.1", int(told["url"].rpartition(":")[2])))
    assert Client(told["url"]).ready()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_rubbish_gets_a_clear_no(
    service: tuple[subprocess.Popen[str], dict[str, str]],
) -> None:
    _, told = service
    host, port = told["url"].removeprefix("http://").split(":")
    sent = [*rubbish(np.random.default_rng(1), 500)]
    for request, status, answer in answers(host, int(port), sent):
        assert not fault(status, answer), (request[:300], answer[:500])
    assert Client(told["url"]).ready()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_service_goes_over_to_another_run_and_drops_no_request(
    service: tuple[subprocess.Popen[str], dict[str, str]], tmp_path: Path
) -> None:
    process, told = service
    client = Client(told["url"])
    assert client.ready()
    assert client.model().corpus["source"] != "elsewhere"
    asked = Generate(n=2, topic="soup leeks", seed=1)
    texts = [line.text for line in client.generate(asked) if isinstance(line, Item)]
    assert len(texts) == 2

    other = RunFolder(tmp_path / "other")
    shutil.copytree(SHIPPED, other.path)  # another model over the same base
    later = [line.text for line in written(LocalHands.load(other), asked) if isinstance(line, Item)]
    assert later != texts
    other.note("corpus", other.notes()["corpus"] | {"source": "elsewhere"})
    reload = [str(Path(sys.executable).parent / "cllm"), "serve", "--reload", "--json",
              "--run", str(other.path), "--dashboard", told["dashboard"]]  # fmt: skip
    damaged = RunFolder(tmp_path / "damaged")
    shutil.copytree(other.path, damaged.path)
    (damaged.model / "model.safetensors").write_bytes(b"no weights")
    with Load(client, asked, visitors=6) as load:
        words = [str(damaged.path) if word == str(other.path) else word for word in reload]
        refused = subprocess.run(words, capture_output=True, text=True)
        load.more(2)
        ended = subprocess.run(reload, capture_output=True, text=True)
        load.more(12)
    assert refused.returncode == 2
    assert "model cannot be loaded" in refused.stderr.splitlines()[-1]
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["run"] == name_of(other)
    assert not load.failed
    assert texts in load.texts
    assert load.texts[-1] == later
    assert all(one in (texts, later) for one in load.texts), "of one model or the other, and whole"
    assert client.model().corpus["source"] == "elsewhere"
    assert process.poll() is None

    _end_under_load(process, client)


def _end_under_load(process: subprocess.Popen[str], client: Client) -> None:
    """What was accepted ends, whatever work is left of it; what comes later is refused."""
    heard: list[list[Item | End]] = [[] for _ in range(6)]

    def listen(number: int) -> None:
        asked = Generate(n=20, topic="soup", seed=number, novel=True, hit=True)
        for line in client.generate(asked):
            heard[number].append(line)

    visitors = [threading.Thread(target=listen, args=(number,)) for number in range(len(heard))]
    for visitor in visitors:
        visitor.start()
    while not all(heard):
        assert all(visitor.is_alive() for visitor in visitors)
        time.sleep(0.01)
    assert not all(isinstance(lines[-1], End) for lines in heard)
    process.send_signal(signal.SIGTERM)
    for visitor in visitors:
        visitor.join()
    assert all(isinstance(lines[-1], End) for lines in heard)
    assert process.wait(120) == 0
    assert not client.ready()


def test_a_run_has_a_name_that_changes_with_what_it_holds(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(SHIPPED_VOIDS, run.path)
    name = name_of(run)
    assert run_of(name).path == run.path
    run.ideas.unlink()
    assert name_of(run) != name
    with pytest.raises(InputError, match="another model by now"):
        run_of(name)
    shutil.rmtree(run.latents)
    with pytest.raises(InputError, match="cllm embed"):
        name_of(run)


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False),
     ("::", False), ("192.168.1.4", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_only_loopback_is_open_without_keys(host: str, inside: bool, tmp_path: Path) -> None:
    assert is_loopback(host) == inside
    words = ["--run", str(SHIPPED_VOIDS), "--host", host]
    keys = tmp_path / "keys.json"
    if inside:
        assert settings_of(parser().parse_args(words)).keys is None
    with pytest.raises(InputError, match=r"make (one|a key) with"):
        settings_of(parser().parse_args([*words, "--keys", str(keys)]))
    keys.write_text(json.dumps({"keys": {"ann": "0" * 64}}))
    assert settings_of(parser().parse_args([*words, "--keys", str(keys)])).keys == keys


def test_a_serve_that_does_not_start_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Client:
        def get_serve_details(self) -> dict[str, Any]:
            return {"applications": {}}

        def deploy_applications(self, config: dict[str, Any]) -> None:
            raise RuntimeError("Request failed: Traceback\nThe actor is dead\n.")

    from serve.running import Service

    monkeypatch.setattr("serve.running.get_dashboard_url", lambda: "127.0.0.1:1")
    monkeypatch.setattr("serve.running.ServeSubmissionClient", lambda _: Client())
    settings = settings_of(parser().parse_args(["--run", str(SHIPPED_VOIDS)]))
    with (
        pytest.raises(WorkError, match=r"did not start \(.*The actor is dead"),
        Service.started(settings, "127.0.0.1", free_port()),
    ):
        pass


def test_a_file_of_milvus_lite_is_no_store_of_a_service() -> None:
    words = ["--run", str(SHIPPED_VOIDS), "--milvus"]
    with pytest.raises(InputError, match="no URI of a Milvus server"):
        settings_of(parser().parse_args([*words, "./milvus.db"]))
    assert settings_of(parser().parse_args([*words, "http://h:1"])).milvus == "http://h:1"


def test_a_machine_gives_its_cores_to_models_and_a_cluster_what_it_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ray._private.utils.get_num_cpus", lambda: 3)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def models(*words: str) -> int:
        return settings_of(parser().parse_args(["--run", str(SHIPPED_VOIDS), *words])).models

    assert models() == 3
    assert models("--models", "7") == 7
    assert models("--threads", "2") == models("--threads", "9") == 1
    assert models("--address", "local") == 3
    assert models("--address", "10.0.0.1:6379") == models("--gpu") == 1
    for name in ("--models", "--threads"):
        with pytest.raises(InputError, match=f"{name} is 0; it must be 1 or more"):
            models(name, "0")
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.1:8265")
    assert models() == 1
    monkeypatch.setattr("ray._private.utils.get_num_cpus", lambda: 64)
    monkeypatch.delenv("RAY_ADDRESS")
    assert models() == 4


def test_files_for_clusters_are_what_serve_and_we_take() -> None:
    import yaml
    from ray.serve.schema import ServeDeploySchema

    from serve.running import BUILDER

    told = yaml.safe_load((FOLDER / "config.yaml").read_text("utf-8"))
    ServeDeploySchema.model_validate(told)
    service = yaml.safe_load((FOLDER.parent / "cluster/kuberay/service.yaml").read_text("utf-8"))
    inner = yaml.safe_load(service["spec"]["serveConfigV2"])
    for (application,) in (told["applications"], inner["applications"]):
        ServeSettings.model_validate(application["args"])
        assert application["import_path"] == BUILDER


def test_the_dashboard_shows_metrics_that_there_are() -> None:
    made = set(re.findall(r'"(cllm_\w+)"', (FOLDER / "metrics.py").read_text("utf-8")))
    shown = re.findall(r"ray_(cllm_\w+)", (FOLDER / "grafana.json").read_text("utf-8"))
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in shown} == made
