"""Lengths in tokens, against counting them one by one."""

import logging

import numpy as np
import pytest
from models import tiny_classifier

from distiltune.cluster.pipeline.preflight import CheckedJob, measure_texts
from distiltune.cluster.specification.config import JobConfig
from distiltune.cluster.store.runs import Storage
from distiltune.training.checkpoints.load import load_tokenizer
from distiltune.training.data.analysis import lengths

TEXTS = ["word " * (1 + n % 40) for n in range(200)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_classifier(tmp_path_factory.mktemp("model") / "bert", label_names=["a", "b"], texts=TEXTS)


def test_percentiles_and_truncated_texts_are_counted(checkpoint) -> None:
    tokenizer = load_tokenizer(checkpoint)
    counts = np.array([len(tokenizer(text)["input_ids"]) for text in TEXTS])
    found = lengths.measure_lengths(tokenizer, TEXTS, 20)
    assert found.share_truncated == (counts > 20).mean() > 0.4
    assert found.p95 == np.ceil(np.percentile(counts, 95))
    assert (found.p99, found.p995) == tuple(np.ceil(np.percentile(counts, [99, 99.5])))
    assert (found.num_texts, found.longest) == (200, counts.max())
    assert lengths.measure_lengths(tokenizer, TEXTS, int(counts.max())).share_truncated == 0


def test_many_texts_are_sampled_evenly(checkpoint, monkeypatch) -> None:
    monkeypatch.setattr(lengths, "_NUM_MEASURED", 50)
    found = lengths.measure_lengths(load_tokenizer(checkpoint), TEXTS, 20)
    assert found.num_texts == 50


@pytest.mark.parametrize(("max_length", "warns"), [(8, True), (60, False)])
def test_a_job_whose_texts_are_cut_warns_before_it_starts(
    max_length, warns, checkpoint, tmp_path, caplog
) -> None:
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "\n".join(f"{text}{n},{'ab'[n % 2]}" for n, text in enumerate(TEXTS)))
    config = JobConfig.model_validate(
        {
            "data": {"train": str(data)},
            "teacher": {"checkpoint": str(checkpoint)},
            "training": {"max_length": max_length},
        }
    )
    job = CheckedJob(config, Storage(str(tmp_path / "runs")))
    with caplog.at_level(logging.WARNING, "distiltune"):
        measure_texts(job)
    assert job.lengths is not None
    assert ("training.max_length: 8 given" in caplog.text) == warns
