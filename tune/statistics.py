"""What a corpus is like, in numbers that may foretell how large its vectors have to be.

Those of `quick` need the texts alone, dimensions a base LLM, and both seconds; entropies need a
reference LM that was trained on the texts, where they are not known exactly.

    facts = quick(corpus) | dimensions(base, corpus) | entropies(base, reference, corpus)
"""

# Shapes: N texts, T tokens, H width, M tokens of all texts, O order.
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from cllm.base import BaseLM
from cllm.clouds import intrinsic_dimension
from cllm.corpus import Corpus
from cllm.errors import InputError
from cllm.pretrain import fitted_texts, token_texts
from cllm.reference import ReferenceLM
from cllm.sphere import ExactIndex, unit

METHOD = 2  # raised when a statistic would be worked out otherwise
VOCABULARY = 4000  # byte-level BPE tokens, as of the bases made here
CONTEXT = 128  # tokens that a text is cut to
LEAST_REPEATED = 1e-3  # its logarithm is taken
READ = 20_000  # training texts that are looked at
ASKED = 500  # held-out texts whose cost is worked out
BITS = np.uint64(12)  # of a token, the start and the end among them: five fit into a code
ORDER = 4  # of the n-gram model: tighter by half than 2 where texts are templates, else as good
SAMPLE = 1000  # texts whose token matrices are compared
Rows = Sequence[Sequence[int]]  # of tokens
Codes = NDArray[np.uint64]
DIMS = ("matrix_dim", "mean_dim")
QUICK = ("texts", "tokens", "vocabulary", "text_nats", "token_nats", "repeated")


def quick(corpus: Corpus) -> dict[str, float]:
    """Numbers of a corpus, by name; entropies are upper bounds, by a 4-gram model of its tokens.

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
    nats_N, single_N = (ngram_nats(rows, asked, order) for order in (ORDER, 1))
    length = float(np.mean([len(row) for row in whole]))
    words = Counter(word for text in train for word in text.lower().split())
    return {
        "texts": float(len(corpus.select("train"))),
        "tokens": length,
        "vocabulary": float(len(words)),
        "text_nats": float(nats_N.mean()),
        "token_nats": float(nats_N.sum()) / sum(len(_windows(row, 1)) for row in asked),
        "repeated": max(LEAST_REPEATED, 1 - float(nats_N.mean() / single_N.mean())),
    }


def dimensions(base: BaseLM, corpus: Corpus) -> dict[str, float]:
    """`matrix_dim`, intrinsic, of whole token matrices, and `mean_dim` of mean token embeddings.

    Both are TwoNN's (Facco et al. 2017), of directions.
    """
    train, context = fitted_texts(base, corpus.select("train").sample(SAMPLE), CONTEXT)
    arrays_NTH = np.zeros((len(train), context, base.width), np.float32)
    for chosen_B, part in train.in_order(64):
        moved = part.to(base.device)
        array_BTH = base.embed(moved.ids_BT, moved.mask_BT) * moved.mask_BT[..., None]
        arrays_NTH[chosen_B, : array_BTH.shape[1]] = array_BTH.cpu().numpy()
    rng = np.random.default_rng(0)
    return {
        "matrix_dim": _two_nn(arrays_NTH.reshape(len(train), -1), rng),
        "mean_dim": _two_nn(arrays_NTH.sum(1), rng),
    }


def entropies(base: BaseLM, reference: ReferenceLM | None, corpus: Corpus) -> dict[str, float]:
    """`base_text_nats` and `base_token_nats`: exact, or by a reference LM; none without either."""
    _, context = fitted_texts(base, corpus.select("train").sample(SAMPLE), CONTEXT)
    held_out = token_texts(base, corpus.select("validation").sample(ASKED), context)
    nats = corpus.info.get("entropy_nats")
    if nats is None and reference is not None:
        nats = reference.nats(held_out).mean()
    if nats is None:
        return {}
    return {"base_text_nats": float(nats),
            "base_token_nats": float(nats) * len(held_out) / held_out.tokens}  # fmt: skip


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


def ngram_nats(rows: Rows, asked: Rows, order: int) -> NDArray[np.float64]:
    """Nats of each asked text by an n-gram model of the others, (N,), its end included.

    Interpolated by absolute discounting (Ney et al. 1994), single tokens with one added to each
    count; a text that is cut has no end.
    """
    known_MO, asked_MO = (np.concatenate([_windows(row, order) for row in some])
                          for some in (rows, asked))  # fmt: skip
    share_M = np.zeros(len(asked_MO))
    for length in range(order):  # of the context
        before_M, all_M = _codes(known_MO, length)
        grams, first, count = np.unique(all_M, return_index=True, return_counts=True)
        asked_before_M, asked_all_M = _codes(asked_MO, length)
        found_M = _looked_up(grams, count, asked_all_M)
        if not length:
            share_M = (found_M + 1) / (len(all_M) + VOCABULARY + 1)  # the end is one more
            continue
        once, twice = (count == 1).sum(), (count == 2).sum()
        off = once / (once + 2 * twice) if once else 0.5
        seen_M = _looked_up(*np.unique(before_M, return_counts=True), asked_before_M)
        kinds_M = _looked_up(*np.unique(before_M[first], return_counts=True), asked_before_M)
        direct_M = np.maximum(found_M - off, 0) + off * kinds_M * share_M
        share_M = np.where(seen_M > 0, direct_M / np.maximum(seen_M, 1), share_M)
    text_M = np.repeat(np.arange(len(asked)), [len(_windows(row, order)) for row in asked])
    return np.bincount(text_M, -np.log(share_M), len(asked))


def _windows(row: Sequence[int], order: int) -> Codes:
    """Each token of a text behind the `order` - 1 before it, (M, O)."""
    start, end = VOCABULARY, VOCABULARY + 1
    whole = [start] * (order - 1) + [*row, *([end] if len(row) < CONTEXT else [])]
    return sliding_window_view(np.array(whole, np.uint64), order)


def _codes(windows_MO: Codes, length: int) -> tuple[Codes, Codes]:
    """Of the last `length` tokens before each token, and of these with the token itself."""
    before_M = np.zeros(len(windows_MO), np.uint64)
    every = windows_MO.shape[1]
    for column in range(every - 1 - length, every - 1):
        before_M = before_M << BITS | windows_MO[:, column]
    return before_M, before_M << BITS | windows_MO[:, -1]


def _looked_up(known: Codes, count: NDArray[np.int64], asked_M: Codes) -> NDArray[np.int64]:
    """The count of each, 0 where it is not known."""
    row_M = np.minimum(np.searchsorted(known, asked_M), len(known) - 1)
    return np.where(known[row_M] == asked_M, count[row_M], 0)
