"""Round 0 of self-improvement: the run that it begins with, its judge, and its yardstick.

    begin(loop)                        # loop.round(0), once
    judge = judge_of(loop, corpus, held_out); field = field_for(loop, 1, model)

What is fixed here holds for all rounds: nothing that a model wrote has a part in it.
"""

# Shapes: M held-out texts, N texts of the cloud, D coordinates.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import numpy as np

from cllm import discovery, pipeline
from cllm.arms import from_prior
from cllm.corpus import Corpus, spaced
from cllm.critic import Critic
from cllm.critics import make_critic
from cllm.errors import InputError
from cllm.evaluate import nats_without
from cllm.field import Field, Rest
from cllm.files import write_json
from cllm.ideas import land
from cllm.improve import Loop, copy_of
from cllm.judge import Judge
from cllm.losses import text_nats
from cllm.made import real_part
from cllm.metrics import wilson
from cllm.model import CLLM
from cllm.negatives import KINDS, Negatives
from cllm.plausibility import Plausibility
from cllm.pretrain import HELD_OUT, token_texts
from cllm.run import RunFolder
from cllm.settling import filled
from cllm.sphere import ExactIndex, prefix
from cllm.writing import field_of, make_plausible

ENOUGH = 100  # validation texts to tell rounds apart
TESTED, LEARNT_FROM = 400, 5000  # texts that the judge is put to; that rubbish is made of


def begin(loop: Loop, _number: int = 0) -> None:
    """Round 0: a copy of the run, the judge of all rounds, and what gains are counted from.

    Raises:
        InputError: the run's vectors tell nothing, or the judge guards nothing.
    """
    first = loop.round(0)
    if not first.report.exists():  # the last that a copy has
        copy_of(RunFolder(loop.origin), first.path)
    model = first.load_model()
    if model.hash != loop.start:
        raise InputError(f"{first.path} is not the run that this loop began with; remove it")
    if loop.how.arrays and model.config.form != "mirrored":
        raise InputError(f"a {model.config.form} model unfolds no arrays; leave out arrays=true")
    if not first.latents.exists():
        pipeline.embed_corpus(first)
    if not first.voids.exists() or "chance_score" not in first.notes().get("voids", {}):
        discovery.search_voids(first, loop.how.seed, quick=loop.settings.quick_voids)
    corpus = real_part(first.load_trained_corpus())
    if not loop.yardstick.exists():
        write_json(loop.yardstick, _yardstick(loop, model, corpus))
    make_critic(first, loop.settings, reuse=True, anyway=True)
    plausible_for(loop)
    first.note("voids", first.notes()["voids"] | {"rest": "open"})
    first.note("voids", first.notes()["voids"] | {"rest": _rest(loop, model)})
    loop.note(0, judge=_put_to_the_test(loop, model, corpus))


def _yardstick(loop: Loop, model: CLLM, corpus: Corpus) -> dict[str, Any]:
    """What real held-out texts cost without a vector, and a nearly real copy of each test text."""
    reference, entropy = loop.round(0).load_reference(model.base), corpus.info.get("entropy_nats")
    told: dict[str, Any] = {}
    kinds = {"watched": watched(corpus, loop.how.measured),
             "test": corpus.select("test").sample(loop.how.measured)}  # fmt: skip
    for kind, some in kinds.items():
        tokens = token_texts(model.base, some, model.config.context)
        without_M = nats_without(model, reference, tokens, entropy)
        told[kind] = without_M.tolist()
        exact = entropy is not None and bool((without_M == entropy).all())
        told[f"{kind} by"] = "entropy" if exact else "null vector or reference LM"
        if kind == "watched" and (without_M - text_nats(model, tokens)).mean() <= 0:
            raise InputError(
                f"vectors of {loop.origin} tell nothing of held-out texts: there is no gain that "
                "rounds could keep; train it longer"
            )
    rng = np.random.default_rng(21)  # the same copies for loops of any seed
    maker = Negatives.of(corpus.select("train").sample(LEARNT_FROM).texts, rng)
    texts = corpus.select("test").sample(loop.how.measured).texts
    edits = [maker.edited(text, rng, KINDS) for text in texts]
    return told | {"edits": [edit and edit[0] for edit in edits]}


def watched(corpus: Corpus, most: int) -> Corpus:
    """Validation texts that say which round is best, and when to end.

    Not those that weights are chosen by (`held_out_texts`), where enough others are left.
    """
    validation = corpus.select("validation")
    taken = set(validation.sample(HELD_OUT).ids)
    others = validation.only([name not in taken for name in validation.ids])
    return (others if len(others) >= ENOUGH else validation).sample(most)


def plausible_for(loop: Loop) -> Plausibility | None:
    """What is worth writing, by round 0's reference LM of real texts; learnt once."""
    first = loop.round(0)
    return make_plausible(first, first.load_model(), real_part(first.load_corpus()))


def field_for(loop: Loop, number: int, model: CLLM) -> Field:
    """The cloud that a round writes from: its parent's, or round 0's own."""
    run = loop.round(max(0, number - 1))
    rng = np.random.default_rng([loop.how.seed, 20, number])
    return field_of(run, model, None, run.load_latents(model), rng, keep=False)


def _rest(loop: Loop, model: CLLM) -> Rest:
    """What is put beside a prefix: that by which more held-out prefixes come back to their place.

    The run's own choice was its judge's, who is to have no part in what is written.
    """
    latents = loop.round(0).load_latents(model)
    train_ND = latents.select("train").vectors_ND
    held_out_MD = latents.select("validation").vectors_ND
    held_out_MD = held_out_MD[spaced(len(held_out_MD), TESTED)]
    index = ExactIndex(prefix(train_ND, model.config.void_dim))
    field = field_for(loop, 0, model)

    def hits(rest: Rest) -> int:
        places_MD = replace(field, rest=rest).completed(held_out_MD)
        return sum(land(places_MD, model.encode(filled(model.decode(places_MD))), index)[1])

    return max(get_args(Rest), key=hits)


def _put_to_the_test(loop: Loop, model: CLLM, corpus: Corpus) -> dict[str, float]:
    """Shares that the judge passes of real unseen texts, of edited and corrupted ones, of decodes.

    It draws its lines by one half of the validation texts, and is put to the other.

    Raises:
        InputError: it passes half as much rubbish as it does real texts, or more.
    """
    held_out = corpus.select("validation")
    odd = held_out.only([row % 2 == 1 for row in range(len(held_out))])
    judge = judge_of(loop, corpus, held_out.texts[::2])
    texts, rng = odd.sample(TESTED).texts, np.random.default_rng([loop.how.seed, 23])
    maker = Negatives.of(corpus.select("train").sample(LEARNT_FROM).texts, rng)
    train_ND = loop.round(0).load_latents(model).select("train").vectors_ND
    kinds = {
        "real": list(texts),
        "edited": [maker.wrong(text, rng) for text in texts],
        "rubbish": [maker.corrupted(text, rng) for text in texts],
        "decoded": filled(model.decode(from_prior(train_ND, len(texts), rng))),
    }
    passed = {name: sum(v.valid for v in judge.judge(some)) for name, some in kinds.items()}
    real, rubbish = (wilson(passed[name], len(texts)) for name in ("real", "rubbish"))
    if loop.how.judge and rubbish.high >= real.low / 2:
        raise InputError(
            f"the judge passes {passed['rubbish']} of {len(texts)} corrupted texts, and "
            f"{passed['real']} real ones: it guards too little; give it more texts, or more time "
            "(a larger --preset), or go on without one: --set judge=false"
        )
    return {name: count / len(texts) for name, count in passed.items()}


def judge_of(loop: Loop, corpus: Corpus, held_out: Sequence[str]) -> Judge:
    """Round 0's critic, and what this corpus makes a duplicate; lines drawn by `held_out`.

    Without the reference LM's band, which has chosen what is written (`plausible_for`). A corpus's
    checker measures, and does not judge here.
    """
    first = loop.round(0)
    model = first.load_model()
    critic = partial(Critic.load(first.critic, model.base).of_texts, base=model.base)
    train = corpus.select("train")
    known, unseen = model.as_cut(train.texts), model.as_cut(held_out)  # as it writes them
    return Judge.calibrate(train.ids, known, unseen, critic=critic)
