"""Invalid checkpoints: each is rejected with a one-line error, before anything is trained with it."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_classifier, tiny_data
from safetensors.torch import load_file, save_file
from tokenizers import ByteLevelBPETokenizer

from distiltune.cluster.pipeline.checks.models import check_models
from distiltune.cluster.specification.config import JobConfig
from distiltune.errors import ModelError
from distiltune.training.checkpoints.heads import load_with_labels, match_labels
from distiltune.training.checkpoints.inspection import inspect_checkpoint
from distiltune.training.checkpoints.load import (
    load_classifier,
    load_config,
    load_model,
    load_tokenizer,
    local_directory,
    new_classifier,
    resolve_checkpoint,
)
from distiltune.training.checkpoints.masked_lm import load_masked_lm
from distiltune.training.models.structured_pruning import KEPT_HEADS

FAMILIES = ("bert", "distilbert", "roberta")
LABELS = [f"label_{number}" for number in range(4)]
TEXTS = [text for text, _ in tiny_data()]
LOADS: list[Callable[[Any], Any]] = [
    lambda name: inspect_checkpoint(name, complete=True),
    lambda name: load_model(name, complete=True),
    lambda name: load_masked_lm(name),
]


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("intact")
    return {
        family: tiny_classifier(root / family, family=family, label_names=LABELS, texts=TEXTS)
        for family in FAMILIES
    }


@pytest.fixture
def copy(intact, tmp_path) -> Callable[[str], Path]:
    return lambda family="bert": Path(shutil.copytree(intact[family], tmp_path / f"copy-{family}"))


def configure(directory: Path, **values: Any) -> Path:
    """Set fields of config.json; None removes one."""
    path = directory / "config.json"
    merged = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in merged.items() if value is not None}))
    return directory


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    path = directory / "model.safetensors"
    weights = change({name: value.clone() for name, value in load_file(path).items()})
    save_file(weights, path, metadata={"format": "pt"})
    return directory


def refused(load: Callable[[], Any], *parts: str) -> str:
    """Check that loading fails with a short one-line error that contains all ``parts``; return its message."""
    with pytest.raises(ModelError) as caught:
        load()
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert len(message) < 700, message
    for part in parts:
        assert part in message
    return message


def job(**sections: Any) -> JobConfig:
    return JobConfig.model_validate(sections)


def roles(directory: Path, good: Path) -> dict[str, JobConfig]:
    """Return a job for each key that names a checkpoint; its other models are valid."""
    name, layers = str(directory), {"layers": [0]}
    pretraining = {"checkpoint": name, "beta": 0, "gamma": 0}
    return {
        "teacher.checkpoint": job(teacher={"checkpoint": name}, student=layers),
        "teacher.fine_tune.checkpoint": job(teacher={"fine_tune": {"checkpoint": name}}, student=layers),
        "student.checkpoint": job(student={"checkpoint": name}),
        "student.pretraining.checkpoint": job(
            teacher={"checkpoint": str(good)}, student={**layers, "pretraining": pretraining}
        ),
    }


# ---- Weights that do not fit ----------------------------------------------------------------------------------


def _encoder_key(weights: dict[str, torch.Tensor], end: str) -> str:
    return next(name for name in sorted(weights) if name.endswith(end))


UNFIT = {
    "a prefix": lambda weights: {f"student.{name}": value for name, value in weights.items()},
    "another table": lambda weights: {
        **weights,
        (key := _encoder_key(weights, "word_embeddings.weight")): weights[key][:50],
    },
    "a weight missing": lambda weights: {
        name: value for name, value in weights.items() if ".layer.1." not in name or not name.endswith("bias")
    },
    "nothing": lambda _: {"x": torch.zeros(1)},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fault", UNFIT)
def test_weights_that_do_not_fit_are_rejected_before_training(fault, family, intact, copy):
    broken = rewrite(copy(family), UNFIT[fault])
    if fault == "a prefix" and family == "bert":
        for config in roles(broken, intact[family]).values():
            refused(lambda config=config: check_models(config), str(broken))
    for load in LOADS:
        refused(lambda load=load: load(broken), str(broken))


def test_mismatched_shapes_are_shown_and_counted(copy):
    broken = configure(copy(), intermediate_size=10)
    refused(
        lambda: inspect_checkpoint(broken),
        "bert.encoder.layer.0.intermediate.dense.weight is 64x32 in the file but 10x32",
        "and 4 more",
    )
    gone = rewrite(copy("roberta"), lambda w: {k: v for k, v in w.items() if "LayerNorm.bias" not in k})
    refused(lambda: inspect_checkpoint(gone), "roberta.embeddings.LayerNorm.bias is missing", "and 3 more")


def test_weights_of_layers_beyond_the_configuration_are_rejected(copy):
    short = configure(copy(), num_hidden_layers=1)
    refused(lambda: inspect_checkpoint(short), "bert.encoder.layer.1.", "config.json")
    bare = rewrite(short, lambda w: {name.removeprefix("bert."): value for name, value in w.items()})
    refused(lambda: inspect_checkpoint(bare), "encoder.layer.1.")


@pytest.mark.parametrize("family", FAMILIES)
def test_only_a_head_may_be_missing_but_not_the_teachers(family, intact, copy, tmp_path):
    model, tokenizer = load_classifier(intact[family])
    encoder = tmp_path / "encoder"
    model.base_model.save_pretrained(encoder)  # its names have no prefix, and it has no head
    tokenizer.save_pretrained(encoder)
    assert all(not name.startswith(f"{family}.") for name in load_file(encoder / "model.safetensors"))
    for parameter, config in roles(encoder, intact[family]).items():
        if parameter == "teacher.checkpoint":
            refused(lambda config=config: check_models(config), "classifier.", "teacher.fine_tune.checkpoint")
        else:
            check_models(config)
    held = load_model(encoder).base_model.state_dict()
    assert all(torch.equal(value, held[name]) for name, value in model.base_model.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_masked_language_model_becomes_a_student(family, intact, tmp_path):
    model, _ = load_masked_lm(intact[family])
    model.save_pretrained(tmp_path / "mlm")
    load_tokenizer(intact[family]).save_pretrained(tmp_path / "mlm")
    inspect_checkpoint(tmp_path / "mlm")  # its head is of another kind, and bert's encoder has no pooler
    assert load_masked_lm(tmp_path / "mlm")[1]


def test_old_weight_names_and_heads_of_other_tasks_are_accepted(intact, copy):
    def old(weights):
        for name in list(weights):
            for new, former in (
                ("LayerNorm.weight", "LayerNorm.gamma"),
                ("LayerNorm.bias", "LayerNorm.beta"),
            ):
                if name.endswith(new):
                    weights[name.replace(new, former)] = weights.pop(name)
        weights["classifier.weight"] = torch.zeros(9, 32)  # labels of tokens
        weights["classifier.bias"] = torch.zeros(9)
        return weights | {"cls.seq_relationship.bias": torch.zeros(2)}

    other = configure(rewrite(copy(), old), architectures=["BertForTokenClassification"])
    inspect_checkpoint(other)
    model, expected = load_model(other), load_model(intact["bert"])
    for name, value in expected.base_model.state_dict().items():
        assert torch.equal(value, model.base_model.state_dict()[name]), name


def test_a_head_that_does_not_match_its_own_labels_is_rejected(copy):
    for family in FAMILIES:
        wrong = configure(copy(family), id2label={"0": "a", "1": "b"})
        for complete in (True, False):
            refused(lambda wrong=wrong, c=complete: inspect_checkpoint(wrong, complete=c), "4x32", "2x32")
            refused(lambda wrong=wrong, c=complete: load_model(wrong, complete=c), "4x32", "2x32")


def test_fewer_heads_than_the_weights_of_a_narrowed_model_are_rejected(copy):
    refused(lambda: inspect_checkpoint(configure(copy(), **{KEPT_HEADS: 1})), "32x32 in the file but 32x16")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_on_load(wrong, copy):
    def spoil(weights):
        weights["bert.encoder.layer.1.output.dense.weight"][3, 5] = wrong
        return weights

    broken = rewrite(copy(), spoil)
    for load in LOADS[1:]:
        refused(lambda load=load: load(broken), "not finite", "bert.encoder.layer.1.output.dense.weight")


def test_large_finite_weights_are_accepted(copy):
    def enlarge(weights):
        weights["classifier.weight"][:] = 3e38  # their sum is infinite
        return weights

    load_classifier(rewrite(copy(), enlarge))


# ---- Damaged and foreign files --------------------------------------------------------------------------------


def _header(fields: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text + data


DAMAGED = {
    "empty": b"",
    "cut off in the length": b"\x10\0\0\0",
    "a length of 2**60": struct.pack("<Q", 2**60) + b"{}",
    "a length of 2**64 - 1": b"\xff" * 8 + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"oops",
    "a pickle": b"\x80\x04K\x01." * 8,
    "overlapping": _header(
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        },
        b"\0" * 12,
    ),
    "cut off in the data": _header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}, b"\0" * 8),
    "negative": _header({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, b"\0" * 8),
    "an unknown type": _header({"a": {"dtype": "EVIL", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_weight_file_is_refused(damage, copy):
    broken = copy()
    (broken / "model.safetensors").write_bytes(DAMAGED[damage])
    for load in LOADS:
        refused(lambda load=load: load(broken), "model.safetensors")


def shard(directory: Path) -> Path:
    """Split a checkpoint's weights into several files with an index."""
    load_classifier(directory)[0].save_pretrained(directory / "new", max_shard_size="20KB")
    (directory / "model.safetensors").unlink()
    for path in (directory / "new").iterdir():
        path.replace(directory / path.name)
    assert len(list(directory.glob("*.safetensors"))) > 1
    return directory


def reindex(directory: Path, name: Any) -> Path:
    path = directory / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["classifier.weight"] = name
    path.write_text(json.dumps(index))
    return directory


def test_a_sharded_checkpoint_loads_the_same_weights(intact, copy):
    sharded, expected = shard(copy()), load_classifier(intact["bert"])[0].state_dict()
    check_models(job(teacher={"checkpoint": str(sharded)}, student={"layers": [0]}))
    found = load_classifier(sharded)[0].state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "/etc/outside.safetensors",
        "sub/inside.safetensors",
        "weights.bin",
        "config.json",
        "absent.safetensors",
        "nul\0.safetensors",
        "..",
        "",
        7,
        None,
        ["a"],
    ],
)
def test_an_index_may_only_name_safetensors_files_beside_it(name, intact, copy, tmp_path):
    broken = shard(copy())
    for path in (
        tmp_path / "outside.safetensors",
        broken / "sub" / "inside.safetensors",
        broken / "weights.bin",
    ):
        path.parent.mkdir(exist_ok=True)
        shutil.copy(intact["bert"] / "model.safetensors", path)
    reindex(broken, name)
    for load in (resolve_checkpoint, *LOADS):
        refused(lambda load=load: load(str(broken)), "model.safetensors.index.json", repr(name)[:50])


def test_a_shard_may_be_a_link_only_in_the_hubs_cache(intact, copy, tmp_path):
    linked = shard(copy())
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(linked.iterdir())):
        if path.is_file():
            shutil.copy(path, blobs / str(number))
            (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    load_classifier(snapshot)
    inspect_checkpoint(snapshot, complete=True)
    one = next(iter(linked.glob("model-*.safetensors")))
    one.rename(tmp_path / one.name)
    one.symlink_to(tmp_path / one.name)
    for load in LOADS:
        refused(lambda load=load: load(linked), "model.safetensors.index.json", one.name, "link")
    (snapshot / one.name).unlink()
    (snapshot / one.name).symlink_to(tmp_path / one.name)
    refused(lambda: inspect_checkpoint(snapshot), one.name, "link")


@pytest.mark.parametrize(
    "index", [b"", b"{", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {}}', b"[" * 99999]
)
def test_a_damaged_index_is_refused(index, copy):
    broken = shard(copy())
    (broken / "model.safetensors.index.json").write_bytes(index)
    for load in LOADS:
        refused(lambda load=load: load(broken), "model.safetensors.index.json")


def test_an_adapter_is_rejected(copy):
    adapter = copy()
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/else"}')
    for load in (resolve_checkpoint, *LOADS):
        refused(lambda load=load: load(str(adapter)), "adapter_config.json", "merge")


def test_weights_under_another_name_are_rejected(copy):
    stray = copy()
    (stray / "model.safetensors").rename(stray / "adapter_model.safetensors")
    refused(lambda: resolve_checkpoint(str(stray)), "model.safetensors", "adapter_model.safetensors")


def test_only_the_files_of_a_checkpoint_are_downloaded(monkeypatch, tmp_path):
    asked: dict[str, Any] = {}

    def download(name: str, **patterns: Any) -> str:
        asked.update(patterns, name=name)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    from huggingface_hub.utils import filter_repo_objects

    assert local_directory("someone/model") == tmp_path
    held = ["config.json", "model.safetensors", "pytorch_model.bin", "modeling.py", "onnx/model.safetensors"]
    held += ["tokenizer.json", "vocab.txt", "sentencepiece.bpe.model", "special_tokens_map.json"]
    kept = filter_repo_objects(
        held, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(kept) == [held[0], held[1], *held[5:]]


# ---- config.json ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attention",
    [
        {"_attn_implementation": "kernels-community/flash-attn"},
        {"attn_implementation": "someone/kernel@main:run"},
        {"_attn_implementation_internal": "kernels-community/flash-attn"},
        {"attn_implementation": "flash_attention_2"},
        {"attn_implementation": {"": "someone/kernel"}},
        {"_experts_implementation": "someone/kernel"},
    ],
)
def test_the_attention_that_a_checkpoint_names_is_ignored(attention, copy, monkeypatch):
    fetched: list[Any] = []
    for place in ("modeling_utils", "integrations.hub_kernels"):
        monkeypatch.setattr(
            f"transformers.{place}.lazy_import_flash_attention",
            lambda *given, **_: fetched.append(given),
            raising=False,
        )
    named = configure(copy(), **attention)
    models = [load_classifier(named)[0], load_masked_lm(named)[0], new_classifier(load_config(named))]
    inspect_checkpoint(named, complete=True)
    assert [model.config._attn_implementation for model in models] == ["sdpa"] * 3
    assert fetched == []


def test_code_beside_a_checkpoint_is_not_run(copy, tmp_path):
    named = configure(copy(), auto_map={"AutoConfig": "code.Config", "AutoModel": "code.Model"})
    (named / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    path = named / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": [None, "code.Tokenizer"]}}
    path.write_text(json.dumps(tokenizer))
    for load in LOADS:
        load(named)
    load_classifier(named)
    configure(named, model_type="of_its_own")
    refused(lambda: load_classifier(named), "model_type", "'of_its_own'")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", ["bfloat16", "nn", "evil", 7, {"a": 1}])
def test_weights_are_loaded_in_32_bits_whatever_dtype_is_configured(key, value, intact, copy):
    model = load_classifier(configure(copy(), **{"dtype": None, key: value}))[0]
    assert model.dtype == torch.float32
    expected = load_classifier(intact["bert"])[0].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


REFUSED_VALUES = [
    ("bert", {"num_attention_heads": 0}),
    ("bert", {"num_attention_heads": -2}),
    ("bert", {"num_attention_heads": 3}),
    ("bert", {"num_attention_heads": 5}),
    ("bert", {"hidden_size": 2**80}),
    ("bert", {"hidden_size": "32"}),
    ("bert", {"num_hidden_layers": 1_000_000}),
    ("bert", {"num_hidden_layers": 9_999}),
    ("bert", {"num_hidden_layers": 0}),
    ("bert", {"num_hidden_layers": 2.5}),
    ("bert", {"vocab_size": -1}),
    ("bert", {"vocab_size": True}),
    ("bert", {"max_position_embeddings": 0}),
    ("bert", {"type_vocab_size": -1}),
    ("bert", {"pad_token_id": 10**6}),
    ("bert", {"hidden_act": "evil"}),
    ("bert", {"hidden_dropout_prob": 7.0}),
    ("bert", {"initializer_range": -1.0}),
    ("bert", {"chunk_size_feed_forward": "x"}),
    ("bert", {KEPT_HEADS: 0}),
    ("bert", {KEPT_HEADS: 3}),
    ("bert", {KEPT_HEADS: "a"}),
    ("bert", {"model_type": None}),
    ("bert", {"model_type": "brt"}),
    ("bert", {"model_type": ["bert"]}),
    ("bert", {"quantization_config": {"quant_method": "bitsandbytes"}}),
    ("bert", {"transformers_weights": "adapter_model.bin"}),
    ("bert", {"fusion_config": {"patch_embeddings": True}}),
    ("distilbert", {"n_heads": 0}),
    ("distilbert", {"n_heads": 3}),
    ("distilbert", {"n_layers": 1_000_000}),
    ("distilbert", {"dim": -32}),
    ("distilbert", {"activation": "evil"}),
    ("distilbert", {"hidden_dim": 0}),
    ("roberta", {"num_attention_heads": 0}),
    ("roberta", {"num_hidden_layers": 1_000_000}),
    ("roberta", {"max_position_embeddings": -5}),
    ("roberta", {"vocab_size": 0}),
]


@pytest.mark.parametrize(("family", "values"), REFUSED_VALUES)
def test_an_impossible_configuration_is_rejected(family, values, copy, capfd):
    broken = configure(copy(family), **values)
    (name,) = values
    refused(lambda: inspect_checkpoint(broken), "config.json", name)
    assert capfd.readouterr() == ("", "")


def test_nan_in_a_configuration_is_rejected(copy):
    broken = configure(copy(), layer_norm_eps=float("nan"))
    refused(lambda: inspect_checkpoint(broken), "config.json", "NaN")


def test_sizes_beyond_any_memory_are_compared_not_allocated(copy):
    huge = configure(copy(), hidden_size=2**30)
    refused(lambda: inspect_checkpoint(huge), "config.json", str(2**30), "32 in the file")


@pytest.mark.parametrize(
    "values", [{"use_return_dict": True}, {"to_dict": 5}, {"__class__": "x"}, {"num_labels": {}}]
)
def test_fields_that_cannot_be_set_are_refused_in_one_line(values, copy, capfd):
    odd = configure(copy(), **values)
    refused(lambda: inspect_checkpoint(odd), "config.json")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "content",
    [b"", b"{oops", b"[]", b"7", b"\xff\xfe", b"[" * 99999, b'{"model_type": NaN}', b'{"a": 1, "a": 2}'],
)
def test_a_damaged_configuration_is_refused(content, copy):
    broken = copy()
    (broken / "config.json").write_bytes(content)
    for load in (*LOADS, load_tokenizer, load_config):
        refused(lambda load=load: load(broken), "config.json")


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        ({"0": "a", "1": "b", "2": "a", "3": "c"}, "'a' is the name of two labels"),
        ({"0": "a", "1": "b", "2": "c", "4": "d"}, "'3'"),
        ({"1": "a", "2": "b", "3": "c", "4": "d"}, "'0'"),
        ({"a": "0", "b": "1", "c": "2", "d": "3"}, "'a'"),
        (["a", "b", "c", "d"], "['a', 'b', 'c', 'd'] given"),
        ({"0": "a", "1": "b", "2": "c", "3": 7}, "7"),
        ({"0": "a", "1": "b", "2": "c", "3": None}, "None"),
        ({}, "{}"),
        ("four", "'four'"),
    ],
)
def test_labels_that_cannot_be_matched_by_name_are_refused(names, shown, copy):
    broken = configure(copy(), id2label=names)
    refused(lambda: inspect_checkpoint(broken), "id2label", shown)


@pytest.mark.parametrize("count", [0, -1, 10**9, "4", 3, 2.0, True])
def test_a_num_labels_that_contradicts_id2label_is_rejected(count, copy):
    broken = configure(copy(), num_labels=count)
    refused(lambda: inspect_checkpoint(broken), "num_labels", repr(count))
    if not isinstance(count, int) or count > 3 or count < 1:
        refused(lambda: inspect_checkpoint(configure(broken, id2label=None)), "num_labels", repr(count))


def test_ids_of_more_than_ten_labels_are_ordered_as_numbers(tmp_path):
    names = [f"label_{number}" for number in range(12)]
    twelve = tiny_classifier(tmp_path / "twelve", label_names=names, texts=TEXTS)
    inspect_checkpoint(twelve, complete=True)  # as text, "10" would come before "2"


# ---- Tokenizers -----------------------------------------------------------------------------------------------


def without_tokenizer(directory: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).unlink()
    return directory


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_without_tokenizer_files_is_refused(family, intact, copy):
    bare = without_tokenizer(copy(family))
    for config in roles(bare, intact[family]).values() if family == "bert" else ():
        refused(lambda config=config: check_models(config), str(bare), "no tokenizer", "tokenizer.json")
    refused(lambda: load_classifier(bare), "no tokenizer")


@pytest.mark.parametrize(
    ("family", "files"),
    [
        ("bert", {"vocab.json": "{}", "merges.txt": ""}),
        ("bert", {"vocab.json": '{"a": 0}'}),
        ("bert", {"spiece.model": ""}),
        ("distilbert", {"merges.txt": ""}),
        ("roberta", {"vocab.txt": "[PAD]\n[UNK]\nopen\n"}),
        ("roberta", {"vocab.json": "{}"}),
        ("bert", {"vocab.txt": ""}),
        ("bert", {"vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"}),
        ("bert", {"tokenizer.json": "{}"}),
        ("bert", {"tokenizer.json": '{"model": 3}'}),
    ],
)
def test_tokenizer_files_of_another_family_or_without_pieces_are_refused(family, files, copy):
    odd = without_tokenizer(copy(family))
    for name, content in files.items():
        (odd / name).write_text(content)
    refused(lambda: inspect_checkpoint(odd), str(odd))


def test_a_tokenizer_loads_from_vocabulary_files_alone(intact, copy, tmp_path):
    for family in ("bert", "distilbert"):
        bare = without_tokenizer(copy(family))
        vocabulary = load_tokenizer(intact[family]).get_vocab()
        (bare / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))
        inspect_checkpoint(bare)
        assert load_tokenizer(bare).get_vocab() == vocabulary
    bytewise = ByteLevelBPETokenizer()
    bytewise.train_from_iterator(TEXTS, 300, special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    bare = without_tokenizer(copy("roberta"))
    bytewise.save_model(str(bare))
    assert load_tokenizer(bare).get_vocab() == bytewise.get_vocab()


def test_a_tokenizer_larger_than_the_table_is_refused(copy):
    wide = copy()
    tokenizer = load_tokenizer(wide)
    tokenizer.add_tokens(["<<new>>"])
    tokenizer.save_pretrained(wide)
    assert len(tokenizer) == 116
    refused(lambda: inspect_checkpoint(wide), "token ids up to 115", "115 rows")
    refused(lambda: load_classifier(wide), "token ids up to 115", "115 rows")


def test_a_table_larger_than_the_tokenizer_is_accepted(intact, tmp_path):
    model, tokenizer = load_classifier(intact["bert"])
    model.resize_token_embeddings(128)
    model.save_pretrained(tmp_path / "padded")
    tokenizer.save_pretrained(tmp_path / "padded")
    inspect_checkpoint(tmp_path / "padded", complete=True)
    load_classifier(tmp_path / "padded")


# ---- Heads with one output ------------------------------------------------------------------------------------


def test_a_head_of_one_output_is_rejected_as_teacher_but_accepted_as_encoder(tmp_path):
    one = tiny_classifier(tmp_path / "one", label_names=["LABEL_0"], texts=TEXTS)
    inspect_checkpoint(one)
    refused(
        lambda: match_labels(load_model(one), LABELS), "num_labels is 1", "4 labels", "set task: regression"
    )
    assert load_with_labels(one, LABELS).config.num_labels == 4
