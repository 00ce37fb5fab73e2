"""Lengths in tokens, against counting them one by one."""

import numpy as np
import pytest
from models import tiny_classifier

from distiltune.training.checkpoints.load import load_tokenizer
from distiltune.training.data.analysis import lengths

TEXTS = ["word " * (1 + n % 40) for n in range(200)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_classifier(tmp_path_factory.mktemp("model") / "bert", label_names=["a", "b"], texts=TEXTS)


def measured(tokenizer, max_length):
    return lengths.token_lengths(lengths.count_tokens(tokenizer, TEXTS), max_length)


def test_percentiles_and_truncated_texts_are_counted(checkpoint) -> None:
    tokenizer = load_tokenizer(checkpoint)
    counts = np.array([len(tokenizer(text)["input_ids"]) for text in TEXTS])
    found = measured(tokenizer, 20)
    assert found.share_truncated == (counts > 20).mean() > 0.4
    assert found.p95 == np.ceil(np.percentile(counts, 95))
    assert (found.p99, found.p995) == tuple(np.ceil(np.percentile(counts, [99, 99.5])))
    assert (found.num_texts, found.longest) == (200, counts.max())
    assert measured(tokenizer, int(counts.max())).share_truncated == 0


def test_many_texts_are_sampled_evenly(checkpoint, monkeypatch) -> None:
    monkeypatch.setattr(lengths, "_NUM_MEASURED", 50)
    found = measured(load_tokenizer(checkpoint), 20)
    assert found.num_texts == 50


def test_nearly_all_texts_need_a_multiple_of_eight_tokens_of_at_least_16() -> None:
    for seed in range(20):
        counts = np.random.default_rng(seed).integers(1, 5 + 20 * seed, size=400)
        found = lengths.needed_length(counts)
        assert found % 8 == 0
        assert found >= 16
        assert (counts <= found).mean() >= 0.995
        assert found == 16 or (counts > found - 8).mean() > 0.0025  # 8 less would truncate more
    assert [lengths.needed_length(np.array([n])) for n in (1, 16, 17, 24, 25)] == [16, 16, 24, 24, 32]
