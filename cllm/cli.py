"""The command line: `cllm VERB`, each a thin call into the library.

Heavy imports stand inside the commands, so that `cllm --help` is instant.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cllm import cli_improve, cli_steps, cli_text
from cllm.cli_corpus import corpus_app, read_corpus
from cllm.cli_options import (
    AimName,
    Anywhere,
    BaseName,
    Between,
    Candidates,
    CorpusFile,
    Corrections,
    Count,
    Dim,
    Form,
    Group,
    Groups,
    Hit,
    Json,
    Levels,
    MaxBad,
    Near,
    Nested,
    Novel,
    PresetName,
    Run,
    ScorerKey,
    ScorerModel,
    ScorerUrl,
    Seconds,
    Seed,
    Set,
    SubjectColumn,
    TextColumn,
    Topic,
    Uri,
    Url,
    Valid,
    VoidId,
    Weak,
)
from cllm.cli_steps import settings_of, show
from cllm.console import emit, one_line_errors, set_up_logging, stop_on_sigterm
from cllm.errors import InputError
from cllm.run import SHIPPED, SHIPPED_VOIDS, existing_run, output_run, trained_run

if TYPE_CHECKING:
    from cllm.run import RunFolder
    from cllm.settings import RunSettings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find new texts in the empty places of a text space.",
)
app.add_typer(corpus_app, name="corpus")


def _version(wanted: bool) -> None:
    if wanted:
        from cllm import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="say the version")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: expected errors become one line and an exit status."""
    set_up_logging()
    stop_on_sigterm()
    with one_line_errors():
        app()


# ---- the whole chain ------------------------------------------------------------------


@app.command()
def demo(
    run: Annotated[Path, typer.Option("--run", help="run folder")] = Path("runs/demo"),
    json: Json = False,
    seed: Seed = 0,
    seconds: Seconds = None,
    dim: Dim = None,
    aim: AimName = "text",
    changes: Set = None,
) -> None:
    """The whole chain on the built-in recipes: shipped base, CLLM trained live."""
    from cllm import pipeline
    from cllm.corpus import Corpus

    folder = output_run(run)
    settings = settings_of(
        "quick", dim, seed, seconds=seconds, aim=aim, changes=changes, with_base=False
    )
    pipeline.keep_corpus(folder, Corpus.load(SHIPPED / "corpus.parquet"))
    pipeline.borrow_base(folder, SHIPPED / "base")
    _chain(folder, settings, json)  # the borrowed base brings its reference LM along


@app.command("run")
def run_(
    corpus: CorpusFile,
    run: Run = None,
    json: Json = False,
    seed: Seed = 0,
    preset: PresetName = "standard",
    dim: Dim = None,
    form: Form = None,
    nested: Nested = "on",
    aim: AimName = "text",
    levels: Levels = 1,
    seconds: Seconds = None,
    base: BaseName = None,
    base_seconds: Seconds = None,
    text_column: TextColumn = "text",
    group_column: SubjectColumn = "subject",
    max_bad_rows: MaxBad = 100,
    allow_weak_base: Weak = False,
    milvus: Uri = None,
    changes: Set = None,
) -> None:
    """The whole chain on your texts; trains a small base first unless --base names one."""
    from cllm import pipeline
    from cllm.critics import make_critic
    from cllm.fitting import require_enough_texts
    from cllm.store import require_reachable

    settings = settings_of(
        preset, dim, seed, seconds=seconds, base_seconds=base_seconds,
        form=form, nested=nested, aim=aim, levels=levels, changes=changes,
        adapting=base is not None,
    )  # fmt: skip
    # first what may be refused
    texts = read_corpus(corpus, text_column, max_bad_rows, seed, group_column)
    require_enough_texts(texts, settings.model.dim)
    if milvus:
        require_reachable(milvus)
    folder = output_run(run)
    pipeline.require_same_texts(folder, texts)
    pipeline.keep_corpus(folder, texts)
    if base is None:
        pipeline.make_base(folder, settings.base, passage=settings.passage, reuse=True)
    else:
        pipeline.adapt_base(folder, base, settings.base, passage=settings.passage, reuse=True)
    minimum = settings.base.minimum_restored  # asked before the reference LM takes its time
    pipeline.require_restoring(folder, minimum, allow_weak=allow_weak_base)
    pipeline.make_reference(folder, settings, reuse=True)
    make_critic(folder, settings, reuse=True)
    _chain(folder, settings, json, weak=allow_weak_base, uri=milvus)


def _chain(
    folder: RunFolder,
    settings: RunSettings,
    json: bool,
    *,
    weak: bool = False,
    uri: str | None = None,
) -> None:
    from cllm import discovery, pipeline

    pipeline.train_model(folder, settings, allow_weak=weak, reuse=True)
    pipeline.embed_corpus(folder, uri, replace=uri is None)  # a server's is this model's own
    discovery.search_voids(folder, settings.seed, quick=settings.quick_voids)
    discovery.write_ideas(folder, settings.seed, settings.ideas)
    discovery.evaluate_run(folder, settings.seed, settings.evaluated)
    show(folder, discovery.report_run(folder, settings.seed), json)


cli_steps.add_to(app)


@app.command()
def generate(
    run: Run = None,
    json: Json = False,
    seed: Seed = 0,
    n: Count = None,
    anywhere: Anywhere = False,
    void: VoidId = None,
    near: Near = None,
    between: Between = None,
    topic: Topic = None,
    groups: Groups = None,
    group: Group = None,
    novel: Novel = False,
    valid: Valid = False,
    hit: Hit = False,
    url: Url = None,
    scorer: ScorerUrl = None,
    scorer_model: ScorerModel = None,
    scorer_key: ScorerKey = None,
    candidates: Candidates = 20,
    correction: Corrections = None,
) -> None:
    """Write texts from voids and from the control arms, and judge them.

    From a place (--anywhere, --void, --near, …): texts one by one, kept nowhere.
    """
    places = (void, near, between, topic, groups, group)
    if anywhere or url or any(one is not None for one in places):
        from serve.command import write_from

        for option, given in (("--scorer", scorer), ("--correction", correction)):
            if given:
                raise InputError(f"{option} is of the arms' texts; leave places and --url out")
        write_from(
            existing_run(run, shipped=SHIPPED_VOIDS), url, json, n=n, seed=seed, void=void,
            near=near, between=between, topic=topic, groups=groups, group=group, novel=novel,
            valid=valid, hit=hit,
        )  # fmt: skip
        return
    if novel or valid or hit:
        raise InputError(
            "--novel, --valid and --hit are of texts from a place; give --anywhere, --void, "
            "--near, --between, --topic, --groups or --group"
        )
    from cllm import discovery
    from cllm.ranking import best_first
    from cllm.scoreboard import print_arms
    from cllm.scorer import Scorer
    from cllm.settling import Correction

    folder = trained_run(run)
    other = Scorer(scorer, scorer_model, scorer_key) if scorer else None
    ideas = discovery.write_ideas(folder, seed, n or 100, Correction.of(correction or ()))
    arms = folder.notes()["ideas"]
    if other:
        ideas = discovery.let_choose(folder, ideas, other, candidates)
    rows = discovery.idea_rows(best_first(ideas), {})
    emit({"arms": arms, "ideas": rows}, json, lambda: print_arms(arms, rows))


cli_text.add_to(app)
cli_improve.add_to(app)


# ---- other parts ------------------------------------------------------------------------

STUDIES = (
    "anywhere", "capacity", "correction", "critic", "crossing", "editor", "folding", "knows",
    "levels", "loop", "negation", "noise", "voidbench",
)  # fmt: skip


_ALL_OPTIONS: dict[str, Any] = {  # are another parser's
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "add_help_option": False,
}


@app.command(**_ALL_OPTIONS)
def study(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help=f"{', '.join(STUDIES)}; its own options follow")],
) -> None:
    """Run a study of this project again: `cllm study knows --json`; `list` names them."""
    from importlib import import_module

    from cllm.errors import InputError

    if name == "--help":
        typer.echo(context.get_help())
        return
    if name == "list":
        for each in STUDIES:
            typer.echo(f"{each:12}{_what_it_asks(each)}")
        return
    if name not in STUDIES:
        raise InputError(f"there is no study {name!r}; there are {', '.join(STUDIES)}")
    import_module(f"studies.{name}").main(context.args)


def _what_it_asks(name: str) -> str:
    """The first line of a study, which is read and not imported: that would take seconds."""
    import ast
    from importlib.util import find_spec

    spec = find_spec(f"studies.{name}")
    source = Path(spec.origin).read_text("utf-8") if spec and spec.origin else ""
    return (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]


@app.command(**_ALL_OPTIONS)
def pizza(context: typer.Context) -> None:
    """Train without a topic, then on it: does it come back, and did it lie in a void? --help."""
    from studies import pizza

    pizza.main(context.args)


@app.command(**_ALL_OPTIONS)
def plan(context: typer.Context) -> None:
    """Memory, hours, storage and cost of a training on a cluster, before it runs; --help."""
    from cluster import plan

    plan.main(context.args)


@app.command(**_ALL_OPTIONS)
def tune(context: typer.Context) -> None:
    """Search settings, choose the vector's dimension, or foretell it for a corpus; --help."""
    from tune import main

    main.main(context.args)


@app.command("serve", **_ALL_OPTIONS)
def serve_(context: typer.Context) -> None:
    """The endpoint and the page of a run, by Ray Serve; --help."""
    from serve import main

    main.main(context.args)
