"""Training only the rows of the token embedding that the texts use: the same model, at less cost."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.tokenized import TokenizedDataset, TokenizedSplit
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.models.trainable_embedding_rows import train_used_rows

FAMILIES = ("bert", "roberta", "distilbert")
VOCABULARY, NUM_LABELS, PAD, WIDTH = 50, 3, 1, 16
READ = np.array([7, 3, 9, 20, 21, 40, 3, 49])


def classifier(family="bert"):
    """An untrained classifier without dropout; the other families accept BERT's names of the sizes."""
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": PAD}
    config = AutoConfig.for_model(family, vocab_size=VOCABULARY, num_labels=NUM_LABELS, **sizes)
    config.update(
        {name: 0.0 for name in config.to_dict() if "dropout" in name and name != "classifier_dropout"}
    )
    torch.manual_seed(3)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.fixture
def split():
    random = np.random.default_rng(0)
    lengths = random.integers(3, 9, size=24)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return TokenizedSplit(
        input_ids=random.choice(READ, size=offsets[-1]).astype(np.int32),
        offsets=offsets,
        labels=random.integers(0, NUM_LABELS, size=24),
        example_ids=np.arange(24),
    )


def trained(tmp_path, model, split, *, resume=None, **more):
    args = DistillationTrainingArguments(
        output_dir=str(tmp_path), **{"num_train_epochs": 3, "learning_rate": 1e-2, **more},
        alpha=1.0, per_device_train_batch_size=8, use_cpu=True, bf16=False, report_to="none", seed=5,
    )  # fmt: skip
    trainer = DistillationTrainer(
        model=model, args=args, train_dataset=TokenizedDataset(split), data_collator=DistillationCollator(PAD)
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def table_name(model):
    return next(name for name in model.state_dict() if name.endswith("word_embeddings.weight"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_grad_norm", [0.1, 1e3])
def test_the_model_is_trained_as_with_the_whole_table(tmp_path, split, family, max_grad_norm):
    whole, used = classifier(family), classifier(family)
    train_used_rows(used, split.input_ids)
    assert used.get_input_embeddings().weight.shape == (len(np.unique(READ)), WIDTH)
    for model in (whole, used):
        trained(tmp_path, model, split, weight_decay=0.0, max_grad_norm=max_grad_norm, save_strategy="no")
    torch.testing.assert_close(used.state_dict(), whole.state_dict(), atol=1e-6, rtol=1e-5)
    assert not torch.equal(
        used.state_dict()[table_name(used)], classifier(family).state_dict()[table_name(used)]
    )


def test_rows_that_no_text_reads_stay_as_they_are(tmp_path, split):
    model, name = classifier(), table_name(classifier())
    train_used_rows(model, split.input_ids)
    trained(tmp_path, model, split, weight_decay=0.1, save_strategy="no")
    changed = (model.state_dict()[name] != classifier().state_dict()[name]).any(dim=1)
    assert set(np.flatnonzero(changed)) == set(READ)


def test_tokens_that_training_never_read_can_be_read(split):
    whole, used = classifier().eval(), classifier().eval()
    train_used_rows(used, split.input_ids)
    every = torch.arange(VOCABULARY).reshape(5, 10)
    assert torch.equal(used(every).logits, whole(every).logits)


def test_the_checkpoint_is_that_of_the_model_as_it_was_and_training_resumes_from_it(tmp_path, split):
    model = classifier()
    train_used_rows(model, split.input_ids)
    trained(tmp_path / "whole", model, split, save_strategy="epoch")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole" / "checkpoint-9")
    assert type(loaded.get_input_embeddings()) is nn.Embedding
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), atol=0, rtol=0)

    resumed = classifier()
    train_used_rows(resumed, split.input_ids)
    trained(tmp_path / "rest", resumed, split, resume=str(tmp_path / "whole" / "checkpoint-6"))
    torch.testing.assert_close(resumed.state_dict(), model.state_dict(), atol=0, rtol=0)


def test_it_moves_and_is_copied_as_one():
    model = classifier()
    train_used_rows(model, READ)
    other = copy.deepcopy(model).double()
    with torch.no_grad():
        other.get_input_embeddings().weight.zero_()
    table = other.state_dict()[table_name(other)]
    assert table.dtype == torch.float64
    assert set(np.flatnonzero((table == 0).all(dim=1))) == {*READ, PAD}
    assert torch.equal(model.state_dict()[table_name(model)], classifier().state_dict()[table_name(model)])


def test_an_embedding_that_is_frozen_or_not_a_plain_table_is_left_alone():
    frozen, scaled = classifier(), classifier()
    frozen.get_input_embeddings().requires_grad_(False)
    scaled.set_input_embeddings(nn.Embedding(VOCABULARY, WIDTH, max_norm=1.0))
    for model in (frozen, scaled):
        before = model.get_input_embeddings()
        train_used_rows(model, READ)
        assert model.get_input_embeddings() is before
