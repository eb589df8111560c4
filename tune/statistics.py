"""What a corpus is like, in numbers that may foretell how large its vectors have to be.

Those of `quick` need the texts alone, and seconds; those of `with_base` a base LLM.

    facts = quick(corpus); facts |= with_base(base, reference, corpus)
"""

# Shapes: N texts, T tokens, W words of the vocabulary, H width.
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cllm.base import BaseLM
from cllm.clouds import intrinsic_dimension
from cllm.corpus import Corpus
from cllm.errors import InputError
from cllm.pretrain import fitted_texts, token_texts
from cllm.reference import ReferenceLM
from cllm.sphere import ExactIndex, unit

VOCABULARY = 4000  # byte-level BPE tokens, as of the bases made here
CONTEXT = 128  # tokens that a text is cut to
LEAST_REPEATED = 1e-3  # its logarithm is taken
READ = 20_000  # training texts that are looked at
ASKED = 500  # held-out texts whose cost is worked out
SAMPLE = 1000  # texts whose token matrices are compared
QUICK = ("texts", "tokens", "vocabulary", "text_nats", "token_nats", "repeated")


def quick(corpus: Corpus) -> dict[str, float]:
    """Numbers of a corpus, by name; entropies are upper bounds, by a bigram model of its tokens.

    `texts` training texts, `tokens` of a text, `vocabulary` words, `text_nats` and `token_nats`
    that held-out texts cost (their first 128 tokens), and `repeated`, the share of a text's nats
    that the model saves over single tokens. InputError: fewer than ten training or no held-out
    texts.
    """
    train = corpus.select("train").sample(READ).texts
    held_out = corpus.select("validation").sample(ASKED).texts
    if len(train) < 10 or not held_out:
        raise InputError(
            f"{len(train)} training and {len(held_out)} held-out texts say nothing of a corpus; "
            "give 50 or more"
        )
    whole, asked = _tokenised(train, held_out)
    rows, asked = ([row[:CONTEXT] for row in some] for some in (whole, asked))
    nats_N = _bigram_nats(rows, asked)
    single = _unigram_nats(rows, asked)
    length = float(np.mean([len(row) for row in whole]))
    words = Counter(word for text in train for word in text.lower().split())
    return {
        "texts": float(len(corpus.select("train"))),
        "tokens": length,
        "vocabulary": float(len(words)),
        "text_nats": float(nats_N.mean()),
        "token_nats": float(nats_N.sum()) / sum(map(len, asked)),
        "repeated": max(LEAST_REPEATED, 1 - float(nats_N.mean()) / single),
    }


def with_base(base: BaseLM, reference: ReferenceLM | None, corpus: Corpus) -> dict[str, float]:
    """Entropy a token under a reference LM of the base's size, or exact; intrinsic dimension.

    That is TwoNN's (Facco et al. 2017) of the mean token embedding and of whole token matrices,
    as directions.
    """
    train, context = fitted_texts(base, corpus.select("train").sample(SAMPLE), CONTEXT)
    arrays_NTH = np.zeros((len(train), context, base.width), np.float32)
    for chosen_B, part in train.in_order(64):
        moved = part.to(base.device)
        array_BTH = base.embed(moved.ids_BT, moved.mask_BT) * moved.mask_BT[..., None]
        arrays_NTH[chosen_B, : array_BTH.shape[1]] = array_BTH.cpu().numpy()
    rng = np.random.default_rng(0)
    found = {
        "matrix_dim": _two_nn(arrays_NTH.reshape(len(train), -1), rng),
        "mean_dim": _two_nn(arrays_NTH.sum(1), rng),
    }
    held_out = token_texts(base, corpus.select("validation").sample(ASKED), context)
    entropy = corpus.info.get("entropy_nats")
    if entropy is not None:
        found["base_token_nats"] = float(entropy) * len(held_out) / held_out.tokens
    elif reference is not None:
        found["base_token_nats"] = float(reference.nats(held_out).sum()) / held_out.tokens
    return found


def _two_nn(x_ND: NDArray[np.float32], rng: np.random.Generator) -> float:
    return intrinsic_dimension(ExactIndex(unit(x_ND - x_ND.mean(0))), rng)


def _tokenised(
    train: Sequence[str], held_out: Sequence[str]
) -> tuple[list[list[int]], list[list[int]]]:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(train, trainer)
    both = [tokenizer.encode_batch(list(texts)) for texts in (train, held_out)]
    train_rows, held_out_rows = ([one.ids for one in some] for some in both)
    return train_rows, [row for row in held_out_rows if row]


def _unigram_nats(rows: Sequence[Sequence[int]], asked: Sequence[Sequence[int]]) -> float:
    """Mean nats a text by single tokens, one added to each count."""
    counts = Counter(token for row in rows for token in row)
    total = sum(counts.values()) + VOCABULARY
    costs = [sum(math.log(total / (counts[token] + 1)) for token in row) for row in asked]
    return float(np.mean(costs))


def _bigram_nats(
    rows: Sequence[Sequence[int]], asked: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """Nats of each text by an interpolated bigram model (absolute discounting, Ney et al. 1994)."""
    single = Counter(token for row in rows for token in row)
    pairs = Counter(pair for row in rows for pair in zip([-1, *row], row, strict=False))
    begins: Counter[int] = Counter()
    kinds: Counter[int] = Counter()
    for (first, _), count in pairs.items():
        begins[first] += count
        kinds[first] += 1
    once = sum(count == 1 for count in pairs.values())
    twice = sum(count == 2 for count in pairs.values())
    off = once / (once + 2 * twice) if once else 0.5
    total = sum(single.values()) + VOCABULARY
    nats = []
    for row in asked:
        cost = 0.0
        for first, token in zip([-1, *row], row, strict=False):
            lower, seen = (single[token] + 1) / total, begins[first]
            if seen:
                direct = max(pairs[first, token] - off, 0.0) / seen
                lower = direct + off * kinds[first] / seen * lower
            cost -= math.log(lower)
        nats.append(cost)
    return np.array(nats)
