"""Options that several commands share, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path | None, typer.Option("--run", help="run folder \\[default: runs/default]")]
Texts = Annotated[list[str] | None, typer.Argument(help="texts; without any, lines of stdin")]

Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout, logs on stderr")]
Seed = Annotated[int, typer.Option(min=0, help="of everything random")]
PresetName = Annotated[str, typer.Option("--preset", help="quick, standard or full")]
Dim = Annotated[int | None, typer.Option(help="coordinates of the vector \\[default: 32]")]
Form = Annotated[str | None, typer.Option(help="mirrored, pooled or direct")]
AimName = Annotated[
    str, typer.Option("--aim", help="text: restore well; voids: leave room for new subjects")
]
Nested = Annotated[str, typer.Option(help="on: prefixes of the vector work too; off: plain")]
Levels = Annotated[
    int, typer.Option(min=1, max=2, help="2: a vector of each passage, and of the text over these")
]
Edited = Annotated[
    bool, typer.Option("--editor", help="a second network rewrites what vectors unfold to")
]
Seconds = Annotated[
    float | None, typer.Option(min=0.1, help="training time instead of the preset's")
]
Steps = Annotated[int | None, typer.Option(min=1, help="training steps at most")]
BaseName = Annotated[str | None, typer.Option("--base", help="folder or hub name of a base LLM")]
Weak = Annotated[
    bool, typer.Option("--allow-weak-base", help="go on with a base that restores too little")
]
Uri = Annotated[str | None, typer.Option("--milvus", help="a Milvus server's URI, or a local path")]
CorpusFile = Annotated[Path, typer.Option("--corpus", help="JSONL, CSV, Parquet or text; .gz too")]
TextColumn = Annotated[str, typer.Option(help="column that holds the text")]
SubjectColumn = Annotated[str, typer.Option(help="column of a text's group, where it has one")]
MaxBad = Annotated[int, typer.Option(min=0, help="bad rows before giving up")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="any setting, like train.cluster_weight=0.1; may be repeated"),
]
Corrections = Annotated[
    list[str] | None,
    typer.Option("--correction", help="how places are put right, like settled=false, steps=5, "
                 "retreat=3, best_of=3, passes=2, walked=0; may be repeated"),
]  # fmt: skip

# where `cllm generate` writes from, and which texts it keeps
Count = Annotated[
    int | None, typer.Option("--n", min=1, help="decodes an arm \\[100]; of a place texts \\[1]")
]
Anywhere = Annotated[bool, typer.Option("--anywhere", help="texts from any void")]
VoidId = Annotated[int | None, typer.Option("--void", help="texts from the void of that id")]
Groups = Annotated[
    str | None, typer.Option(help="voids within one group of texts, between two, or across more")
]
Group = Annotated[
    list[str] | None, typer.Option(help="a group that has to lie around; may be repeated")
]
Near = Annotated[str | None, typer.Option(help="texts near this one")]
Between = Annotated[list[str] | None, typer.Option(help="texts between two; give it twice")]
Topic = Annotated[str | None, typer.Option(help="texts near those that have these words")]
Novel = Annotated[bool, typer.Option("--novel", help="only texts that no known one is like")]
Valid = Annotated[bool, typer.Option("--valid", help="only texts that are sound")]
Hit = Annotated[bool, typer.Option("--hit", help="only texts that come back to their place")]
ScorerUrl = Annotated[
    str | None,
    typer.Option("--scorer", help="OpenAI-compatible endpoint whose model chooses among new texts"),
]
ScorerModel = Annotated[
    str | None, typer.Option("--scorer-model", help="its model \\[default: the first it lists]")
]
ScorerKey = Annotated[
    str | None, typer.Option("--scorer-key", envvar="CLLM_SCORER_KEY", hidden=True)
]
Candidates = Annotated[
    int, typer.Option(min=1, help="new texts that a --scorer chooses among, the best of all arms")
]
Url = Annotated[
    str | None, typer.Option(help="of a service that writes them; its key from CLLM_KEY")
]
