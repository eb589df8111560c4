"""Commands as a user types them: the whole chain once, small, then each verb on its result."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cllm.corpus import Corpus
from cllm.recipes import Grammar

pytestmark = pytest.mark.chain

CLLM = [sys.executable, "-c", "from cllm.cli import main; main()"]
TEXT = Grammar("plain").generate(1, 99)[0]


def cllm(*args, cwd, stdin=None):
    return subprocess.run(
        [*CLLM, *map(str, args)], cwd=cwd, input=stdin, capture_output=True, text=True, check=False
    )


def answer(*args, cwd, stdin=None):
    done = cllm(*args, cwd=cwd, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def refusal(*args, cwd, status=2, stdin=None):
    done = cllm(*args, cwd=cwd, stdin=stdin)
    assert done.returncode == status, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("cllm: ")
    return last


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small run folder made by `cllm run` on a JSONL file."""
    home = tmp_path_factory.mktemp("user")
    rows = [{"text": text} for text in Grammar("plain").generate(400, 1)]
    (home / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (report,) = answer(
        "run", "--corpus", "texts.jsonl", "--run", "small", "--preset", "quick", "--dim", 8,
        "--base-seconds", 4, "--seconds", 4, "--allow-weak-base", "--json", cwd=home,
    )  # fmt: skip
    return home, report


def test_run_leaves_every_part_of_the_run_folder(trained):
    home, report = trained
    parts = ["corpus.parquet", "base", "model", "latents", "milvus.db", "voids.parquet",
             "ideas.parquet", "metrics.jsonl", "report.json", "report.html", "map.png"]  # fmt: skip
    assert [p for p in parts if not (home / "small" / p).exists()] == []
    assert json.loads((home / "small" / "report.json").read_text()) == report


def test_cards_tell_command_seed_corpus_and_scores(trained):
    home, report = trained
    base, model = (
        (home / "small" / part / "README.md").read_text("utf-8") for part in ("base", "model")
    )
    for card in (base, model):
        assert "run --corpus texts.jsonl --run small" in card
        assert "| seed | 0 |" in card
        assert report["corpus"]["hash"] in card
    assert f"| content f1 | {report['reconstruction']['content_f1']:.4g} |" in model


def test_report_holds_the_sections_of_the_design(trained):
    _, report = trained
    sections = {"corpus", "base", "model", "reconstruction", "voids", "ideas", "seconds"}
    assert sections <= set(report)
    assert report["model"]["origin"] == "trained here"
    assert report["base"]["weak_base_allowed"] is True
    assert (
        report["corpus"]["train"] + report["corpus"]["validation"] + report["corpus"]["test"] == 400
    )
    found = report["reconstruction"]
    assert found["gain_nats_ci"][0] <= found["gain_nats"] <= found["gain_nats_ci"][1]
    assert found["nats_per_dim"] == pytest.approx(found["gain_nats"] / 8)
    without = min(found["nats_null_vector"], found["nats_reference_lm"])
    assert found["gain_nats"] == pytest.approx(without - found["nats_with_vector"])
    assert "shuffled_content_f1" in found
    rules = [f"retrieval_{rule}content_f1" for rule in ("", "latent_", "tfidf_")]
    for name in (*rules, "array_r2", "round_trip", "nats_per_dim", "forced_token_accuracy"):
        low, high = found[f"{name}_ci"]
        assert low <= found[name] <= high
    assert found["retrieval_content_f1"] == max(found[name] for name in rules)
    assert set(found["gain_by_prefix"]) == {"2", "4", "8"}
    assert found["gain_by_prefix"]["8"] == found["gain_nats"]
    assert found["gain_by_prefix_ci"]["8"] == pytest.approx(found["gain_nats_ci"], rel=0.5)
    assert {"prior", "base"} <= set(report["ideas"])


def test_run_again_keeps_what_is_finished(trained):
    home, _ = trained
    before = (home / "small" / "base" / "model.safetensors").stat().st_mtime_ns
    done = cllm(
        "run", "--corpus", "texts.jsonl", "--run", "small", "--preset", "quick", "--dim", 8,
        "--base-seconds", 4, "--seconds", 4, "--allow-weak-base", "--json", cwd=home,
    )  # fmt: skip
    assert done.returncode == 0
    assert "kept" in done.stderr
    assert (home / "small" / "base" / "model.safetensors").stat().st_mtime_ns == before


def test_encode_and_decode_are_a_pipe(trained):
    home, _ = trained
    (line,) = answer("encode", TEXT, "--run", "small", cwd=home)
    assert len(line["vector"]) == 8
    (back,) = answer("decode", "--run", "small", cwd=home, stdin=json.dumps(line) + "\n")
    (again,) = answer("reconstruct", TEXT, "--run", "small", cwd=home)
    assert back["text"] == again["reconstruction"]
    others = json.dumps(line | {"model": "0" * 16}) + "\n"
    refused = cllm("decode", "--run", "small", cwd=home, stdin=others)
    assert refused.returncode == 2
    assert "name the run that encoded it" in refused.stderr


def test_neighbours_and_interpolation(trained):
    home, _ = trained
    (line,) = answer("neighbours", TEXT, "--run", "small", "--k", 3, cwd=home)
    cosines = [n["cosine"] for n in line["neighbours"]]
    assert len(cosines) == 3
    assert cosines == sorted(cosines, reverse=True)
    assert len(answer("interpolate", TEXT, TEXT, "--steps", 3, "--run", "small", cwd=home)) == 3


def test_generate_repeats_by_seed(trained):
    home, _ = trained
    first, again = (
        answer("generate", "--n", 4, "--seed", 5, "--run", "small", "--json", cwd=home)[0]
        for _ in range(2)
    )
    assert [i["text"] for i in first["ideas"]] == [i["text"] for i in again["ideas"]]


def test_without_a_run_the_shipped_one_goes_on_as_a_copy(tmp_path):
    (found,) = answer("generate", "--n", 2, "--json", cwd=tmp_path)
    assert {"prior", "copy"} <= found["arms"].keys()
    assert (tmp_path / "runs/default/ideas.parquet").exists()
    (report,) = answer("report", "--json", cwd=tmp_path)
    assert report["model"]["origin"] == "shipped"
    assert {"void", "prior", "copy"} <= report["ideas"].keys()


def test_a_refusal_leaves_no_run_folder(trained, tmp_path):
    home, _ = trained
    assert "corpus build" in refusal("train", cwd=tmp_path)
    texts = home / "texts.jsonl"
    refusal("run", "--corpus", texts, "--dim", 4000, "--run", "none", cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_train_replaces_only_the_model_and_embed_must_follow(trained, tmp_path):
    home, _ = trained
    shutil.copytree(home / "small", tmp_path / "copy")
    done = cllm("train", "--run", "copy", "--preset", "quick", "--dim", 4, "--steps", 3,
                "--allow-weak-base", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cllm embed --replace" in refusal("evaluate", "--run", "copy", cwd=tmp_path)
    assert "--replace" in refusal("embed", "--run", "copy", cwd=tmp_path)
    assert cllm("embed", "--replace", "--run", "copy", cwd=tmp_path).returncode == 0


def test_another_split_of_the_corpus_is_refused(trained, tmp_path):
    """Most of its test texts were trained on."""
    home, _ = trained
    shutil.copytree(home / "small", tmp_path / "copy")
    other = ("corpus", "build", "--corpus", home / "texts.jsonl", "--seed", 1, "--json")
    assert "name another --run" in refusal(*other, "--run", "copy", cwd=tmp_path)
    answer(*other, "--run", "other", cwd=tmp_path)
    shutil.copy(tmp_path / "other/corpus.parquet", tmp_path / "copy/corpus.parquet")
    for verb in ("evaluate", "embed", "generate", "report"):
        assert "cllm train" in refusal(verb, "--run", "copy", cwd=tmp_path)


def test_a_weak_base_is_refused(trained, tmp_path):
    home, _ = trained
    shutil.copytree(home / "small", tmp_path / "copy")
    message = refusal("train", "--run", "copy", "--preset", "quick", "--steps", 1, cwd=tmp_path)
    assert "--allow-weak-base" in message


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["run", "--corpus", "none.jsonl"], "none.jsonl"),
        (["run", "--corpus", "one.txt"], "one"),
        (["run", "--corpus", "same.txt"], "equal"),
        (["run", "--corpus", "empty.txt"], "empty"),
        (["run", "--corpus", "texts.jsonl", "--text-column", "body"], "body"),
        (["run", "--corpus", "texts.jsonl", "--preset", "huge"], "huge"),
        (["run", "--corpus", "texts.jsonl", "--dim", 4000], "4000"),
        (["run", "--corpus", "texts.jsonl", "--milvus", "http://127.0.0.1:9"], "127.0.0.1:9"),
        (["train", "--run", "small", "--dim", 4000, "--allow-weak-base"], "4000"),
        (["train", "--run", "small", "--form", "round"], "form"),
        (["train", "--run", "nowhere"], "nowhere"),
        (["decode", "[NaN, 1]", "--run", "small"], "finite"),
        (["decode", "[1,2,3,4,5,6,7,8,9]", "--run", "small"], "9"),
        (["decode", "words", "--run", "small"], "JSON"),
        (["decode", "[1" + "0" * 400 + "]", "--run", "small"], "too large"),
        (["pretrain", "--run", "small", "--preset", "quick"], "needs the base"),
        (["encode", "--run", "small"], "no text or vector was given"),
        (["encode", "x", "--run", "nowhere"], "nowhere"),
        (["corpus", "build", "--richness", "odd"], "odd"),
    ],
)
def test_bad_input_is_one_clear_line(trained, args, words):
    home, _ = trained
    (home / "one.txt").write_text("a single text\n")
    (home / "same.txt").write_text("the same text\n" * 5)
    (home / "empty.txt").write_text("")
    assert words in refusal(*args, cwd=home, stdin="")


def test_a_run_over_other_texts_does_not_touch_the_old_one(trained):
    home, report = trained
    (home / "other.txt").write_text("\n".join(Grammar("plain").generate(50, 7)))
    short = ("--preset", "quick", "--dim", 8, "--base-seconds", 1, "--seconds", 1)
    message = refusal("run", "--corpus", "other.txt", "--run", "small", *short, cwd=home)
    assert "name another --run" in message
    assert answer("report", "--run", "small", "--json", cwd=home)[0]["model"] == report["model"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model/config.json", '{"model_type": "cllm", "form": "round"}'),
        ("model/config.json", '{"model_type": "cllm", "context": "x"}'),
        ("model/training.json", "{}"),
        ("metrics.jsonl", "{}\n{bad\n{}\n"),
        ("report.json", "{bad"),
    ],
)
def test_a_damaged_file_is_one_clear_line(trained, tmp_path, file, content):
    home, _ = trained
    shutil.copytree(home / "small", tmp_path / "copy")
    (tmp_path / "copy" / file).write_text(content)
    assert file.split("/")[0] in refusal("report", "--run", "copy", cwd=tmp_path)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_model_folder_with_a_file_missing(trained, tmp_path, missing):
    home, _ = trained
    shutil.copytree(home / "small", tmp_path / "copy")
    (tmp_path / "copy" / "model" / missing).unlink()
    assert missing in refusal("encode", "x", "--run", "copy", cwd=tmp_path)


def test_a_model_folder_of_another_class(trained, tmp_path):
    home, _ = trained
    shutil.copytree(home / "small", tmp_path / "copy")
    shutil.copy(home / "small/base/config.json", tmp_path / "copy/model/config.json")
    assert "not a CLLM" in refusal("encode", "x", "--run", "copy", cwd=tmp_path)


def test_a_locked_milvus_path(trained, tmp_path):
    home, _ = trained
    shutil.copytree(home / "small", tmp_path / "copy")
    hold = (
        "import sys, time; from pymilvus import MilvusClient\n"
        "c = MilvusClient(sys.argv[1]); print('held', flush=True); time.sleep(60)"
    )
    path = str(tmp_path / "copy" / "milvus.db")
    with subprocess.Popen([sys.executable, "-c", hold, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline().strip() == b"held"
        try:
            assert "milvus.db" in refusal("embed", "--run", "copy", cwd=tmp_path)
        finally:
            holder.kill()


def test_an_interrupted_rename_keeps_the_old_report(trained, tmp_path):
    home, _ = trained
    shutil.copytree(home / "small", tmp_path / "copy")
    old = (tmp_path / "copy" / "report.json").read_text()
    full = (
        "import os, errno\n"
        "real = os.replace\n"
        "def replace(a, b):\n"
        "    if str(b).endswith('report.json'):\n"
        "        raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "    real(a, b)\n"
        "os.replace = replace\n"
        "from cllm.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", full, "report", "--run", "copy"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "free some disk space" in done.stderr
    assert (tmp_path / "copy" / "report.json").read_text() == old


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"no disk can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_keeps_the_old_corpus(small_disk):
    answer("corpus", "build", "--n", 200, "--run", "small", "--json", cwd=small_disk)
    message = refusal("corpus", "build", "--n", 20_000, "--run", "small", cwd=small_disk, status=1)
    assert "space" in message
    checked = answer("corpus", "check", "small/corpus.parquet", "--json", cwd=small_disk)
    assert checked[0]["texts"] == 200
    assert sorted(p.name for p in (small_disk / "small").iterdir()) == [
        "corpus.parquet", "report.json",
    ]  # fmt: skip


def test_milvus_on_a_full_disk_is_no_bad_input(trained, small_disk):
    home, _ = trained
    with contextlib.suppress(OSError), (small_disk / "fill").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    message = refusal(
        "embed", "--run", "small", "--milvus", small_disk / "m.db", cwd=home, status=1
    )
    assert "free some disk space" in message


def test_voids_are_listed_with_the_texts_they_touch(trained, tmp_path):
    home, _ = trained
    shutil.copytree(home / "small", tmp_path / "copy")
    done = cllm("voids", "--run", "copy", "--quick", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert len(found["list"]) >= found["enclosed"]
    assert sum(void["stands"] for void in found["list"]) == found["count"]
    corpus = Corpus.load(tmp_path / "copy" / "corpus.parquet")
    for void in found["list"]:
        assert {text["id"] for text in void["rim"]} <= set(corpus.ids)
        assert all(text["title"] for text in void["rim"])
    shown = cllm("voids", "--run", "copy", "--quick", cwd=tmp_path)
    assert "Voids" in shown.stdout
    assert ("The emptiest" in shown.stdout) == bool(found["list"])


def test_not_a_number_in_the_latents(trained, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    home, _ = trained
    shutil.copytree(home / "small", tmp_path / "copy")
    (shard,) = (tmp_path / "copy" / "latents").glob("*.parquet")
    table = pq.read_table(shard)
    rows = table.to_pylist()
    rows[3]["vector"][0] = float("nan")
    pq.write_table(pa.Table.from_pylist(rows, table.schema), shard)
    message = refusal("voids", "--run", "copy", "--quick", cwd=tmp_path)
    assert table["id"][3].as_py() in message


def test_a_text_beyond_the_context_is_cut_with_a_count(trained):
    home, _ = trained
    done = cllm("encode", TEXT, " ".join([TEXT] * 5), "--run", "small", cwd=home)
    assert done.returncode == 0
    assert "1 of 2 texts are longer than" in done.stderr


def interrupted(*args, cwd, after, by=signal.SIGTERM):
    """What a command says when it gets a signal after a line that starts with `after`."""
    with subprocess.Popen(
        [*CLLM, *map(str, args)], cwd=cwd, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if line.startswith(after):
                process.send_signal(by)
                break
        said = process.stderr.read()
        return process.wait(), said


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_training_goes_on_where_it_was(trained, tmp_path, by):
    home, _ = trained
    shutil.copytree(home / "small", tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "model")
    command = ("train", "--run", "copy", "--preset", "quick", "--dim", 4, "--allow-weak-base")
    status, said = interrupted(
        *command, "--steps", 100_000, cwd=tmp_path, after="CLLM: step 20", by=by
    )
    assert status == 1, said
    last = said.strip().splitlines()[-1]
    assert last.startswith("cllm: interrupted at step ")
    step = int(last.split("at step ")[1].split(";")[0])
    done = cllm(*command, "--steps", step + 5, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "copy" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["step"] == 20  # of the first part
    assert json.loads(lines[-1])["step"] == step + 5
    assert (tmp_path / "copy" / "model" / "model.safetensors").exists()


def test_a_signal_outside_training_ends_in_one_line(tmp_path):
    with (tmp_path / "in.jsonl").open("w") as file:
        file.writelines(f'{{"text": "text number {i} of many"}}\n' for i in range(300_000))
    with subprocess.Popen(
        [*CLLM, "corpus", "check", "in.jsonl"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        time.sleep(4)
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read()
    assert process.returncode == 1
    assert said.strip().startswith("cllm: interrupted")
    assert len(said.strip().splitlines()) == 1


def test_help_needs_no_heavy_import(tmp_path: Path):
    code = (
        "import sys; sys.argv = ['cllm', '--help']\n"
        "from cllm.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'ray', 'numpy', 'pyarrow'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "heavy: []" in done.stdout
