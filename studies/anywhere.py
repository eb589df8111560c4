"""What a run writes from any void, and how much of it is new: `cllm study anywhere --json`.

For each seed one request that takes whatever comes; of built-in recipes it also counts texts of
combinations that no training text has.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cllm.console import one_line_errors, set_up_logging
from cllm.files import write_json
from cllm.recipes import combination
from cllm.run import SHIPPED_VOIDS, RunFolder
from cllm.sampler import Sampler
from cllm.sampling import Request, Tally
from cllm.where import Where


def main(arguments: Sequence[str] | None = None) -> None:
    """Write, and print one JSON object."""
    p = argparse.ArgumentParser(
        prog="cllm study anywhere", description=(__doc__ or "").split("\n")[0]
    )
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--run", type=Path, default=SHIPPED_VOIDS, help="with voids and ideas")
    p.add_argument("--void", type=int, help="in that one [default: in any]")
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--decodes", type=int, default=1000, help="of each seed")
    p.add_argument("--out", type=Path, help="keep the JSON here too")
    options = p.parse_args(arguments)
    set_up_logging()
    with one_line_errors():
        found = anywhere(RunFolder(options.run), options)
        if options.out:
            write_json(options.out, found)
        print(json.dumps(found))


def anywhere(run: RunFolder, options: argparse.Namespace) -> dict[str, Any]:
    """Counts of each seed: texts, those that are new, sound and in place, and what they name."""
    sampler, corpus, rows = Sampler.of(run), run.load_corpus(), []
    for seed in range(options.seeds):
        tally, where = Tally(), Where(void=options.void)
        wanted = Request(where, n=options.decodes, seed=seed, decodes=options.decodes)
        texts = [sample.idea for sample in sampler.sample(wanted, tally)]
        new = [idea.text for idea in texts if idea.yields]
        row: dict[str, Any] = {
            "seed": seed, "decodes": tally.decodes, "texts": len(texts), "new": len(new),
            "distinct": len({*new}),
        }  # fmt: skip
        if "withheld" in corpus.info:
            pairs = [pair for text in new if (pair := corpus.withheld_pair(text))]
            row |= {"withheld": len(pairs), "withheld_pairs": sorted({*map(tuple, pairs)}),
                    "pairs": len({*map(combination, new)})}  # fmt: skip
        rows.append(row)
    known = len(sampler.places.known_nD)
    return {"run": run.path.name, "void": options.void, "known_places": known, "seeds": rows}


if __name__ == "__main__":
    main()
