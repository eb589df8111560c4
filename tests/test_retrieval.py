"""Nearest training texts: known answers, exactness, and the baseline made of them."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from cllm.errors import InputError
from cllm.metrics import score_texts
from cllm.retrieval import TfidfIndex, latent_nearest, retrieval_scores

TRAIN = [
    "200 g flour; 2 eggs; 100 g butter",
    "300 g rice; 1 onion; 2 carrots",
    "500 g beef; 1 onion; 1 l stock",
    "200 g flour; 2 eggs; 100 g sugar",
]


def lists(rng, count, pool=40, length=6):
    words = [f"item{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(pool)]
    return ["; ".join(rng.choice(words, length, replace=False)) for _ in range(count)]


def tokenize(texts):
    return [[*text.encode(), 1] for text in texts]


def test_a_training_text_finds_itself():
    similarity, rows = TfidfIndex(TRAIN).nearest(TRAIN, k=2)
    assert rows[:, 0].tolist() == [0, 1, 2, 3]
    assert similarity[:, 0] == pytest.approx(np.ones(4), abs=1e-5)
    assert similarity.dtype == np.float32
    assert rows[0, 1] == 3
    assert (similarity <= 1).all()


def test_how_rare_a_word_is_can_be_told_by_other_texts():
    few = ["salt and leek", "salt and pork"]
    others = [f"salt and {n}" for n in range(50)]
    own, theirs = (TfidfIndex(few, weights_of=some).nearest(["salt and veal"])[0][0, 0]
                   for some in ([], others))  # fmt: skip
    assert theirs < own, "salt, which is everywhere, makes nothing alike"


def test_known_words_score_as_in_the_textbook():
    train = lists(np.random.default_rng(0), 200)
    train[0] = "; ".join([train[0]] * 3)  # counts are dampened
    textbook = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit_transform(train)
    similarity, rows = TfidfIndex(train).nearest(train[:20], k=200)
    expected = (textbook[:20] @ textbook.T).toarray()
    assert similarity == pytest.approx(np.take_along_axis(expected, rows, axis=1), abs=0.01)


def test_numbers_and_their_units_count():
    similarity, rows = TfidfIndex(TRAIN).nearest(["200 g flour; 3 eggs; 100 g butter"])
    assert rows[0, 0] == 0
    assert 0.5 < similarity[0, 0] < 0.95  # seen, though one digit changed
    half = TfidfIndex(["1/2 cup milk", "1 cup milk"])
    assert half.nearest(["1/2 cup milk", "1 cup milk"])[1][:, 0].tolist() == [0, 1]


def test_unknown_words_lower_the_similarity():
    known, mixed = TfidfIndex(TRAIN).nearest(
        ["100 g butter", "100 g butter with zorps florbed in a blick"]
    )[0][:, 0]
    assert mixed < 0.6 * known


def test_batches_do_not_matter_and_ties_go_to_the_first_row():
    rng = np.random.default_rng(1)
    train, queries = lists(rng, 300), lists(rng, 50)
    index = TfidfIndex([*train, *train])
    similarity, rows = index.nearest(queries, k=4)
    for batch in (1, 7):
        again = index.nearest(queries, k=4, batch=batch)
        assert np.array_equal(similarity, again[0])
        assert np.array_equal(rows, again[1])
    assert (rows[:, 1] == rows[:, 0] + 300).all()
    assert np.array_equal(index.nearest(queries, k=1)[1], rows[:, :1])
    assert (rows[:, 0] < 300).all()
    assert (np.diff(similarity, axis=1) <= 0).all()


def test_top_k_is_the_full_sort():
    rng = np.random.default_rng(2)
    train, queries = lists(rng, 120), lists(rng, 10)
    index = TfidfIndex(train)
    everything, order = index.nearest(queries, k=500)
    assert everything.shape == (10, 120)
    assert (np.sort(order, axis=1) == np.arange(120)).all()
    some, rows = index.nearest(queries, k=3)
    assert np.array_equal(rows, order[:, :3])
    assert np.array_equal(some, everything[:, :3])


def test_odd_texts():
    index = TfidfIndex(TRAIN)
    assert index.nearest(["!!!", ""])[0].tolist() == [[0.0], [0.0]]
    assert index.nearest([])[0].shape == (0, 1)
    for texts in ([], ["...", "!"]):
        with pytest.raises(InputError, match="corpus check"):
            TfidfIndex(texts)


def test_latent_nearest_is_exact():
    rng = np.random.default_rng(3)
    cloud = rng.standard_normal((500, 6)).astype(np.float32)
    cloud /= np.linalg.norm(cloud, axis=1, keepdims=True)
    cosine, rows = latent_nearest(cloud[:20], cloud, k=3)
    assert np.array_equal(rows, np.argsort(-(cloud[:20] @ cloud.T), axis=1)[:, :3])
    assert cosine[:, 0] == pytest.approx(np.ones(20), abs=1e-5)
    assert latent_nearest(cloud[:2], cloud[:2], k=9)[1].shape == (2, 2)
    with pytest.raises(ValueError, match="6-d vectors, the cloud 5-d"):
        latent_nearest(cloud, cloud[:, :5])


def test_the_better_rule_is_chosen_per_metric():
    references = ["one two three four five", "six seven eight nine ten"]
    train = ["one two three four five", "five four three two one", "six seven eight nine zero"]
    rows = {"latent": np.array([1, 2]), "tfidf": np.array([0, 1])}
    scores = retrieval_scores(references, train, rows, tokenize)
    assert scores.rule("exact_match") == "tfidf"
    assert scores.best("exact_match").exact_match_N.tolist() == [1, 0]
    assert scores.rule("content_f1") == "latent"
    found = scores.intervals(np.random.default_rng(0))
    for metric in ("bleu", "content_f1", "exact_match"):
        both = [scores.by_rule[rule].value(metric) for rule in rows]
        assert found[f"retrieval_{metric}"].mean == max(both)
        assert [found[f"retrieval_{rule}_{metric}"].mean for rule in rows] == both


def test_a_model_that_beats_retrieval_shows_in_the_paired_difference():
    rng = np.random.default_rng(4)
    train, references = lists(rng, 200), lists(rng, 60)
    nearest = TfidfIndex(train).nearest(references)[1][:, 0]
    scores = retrieval_scores(references, train, {"tfidf": nearest}, tokenize)
    model = score_texts(references, references, tokenize(references), tokenize(references))
    copy = scores.best("content_f1")
    for metric in ("content_f1", "bleu"):
        gain = scores.advantage(metric, model, rng)
        assert 0 < gain.low <= gain.mean <= gain.high
        assert gain.mean == pytest.approx(model.value(metric) - copy.value(metric))
        assert scores.advantage(metric, copy, rng).ci == [0.0, 0.0]
