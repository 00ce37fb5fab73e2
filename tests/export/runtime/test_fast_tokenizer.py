"""A fast tokenizer replaces ``tokenizers`` only where it gives the same ids."""

import json
import random
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from artifacts import LABELS, TEXTS, WORDS, tiny_artifact
from onnx import TensorProto, helper, load_model, save_model

from distiltune.errors import InputError
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.runtime.fast import FAST_TOKENIZERS, FastTokenizer, agreement, choose
from distiltune.export.runtime.fast.base import register
from distiltune.export.runtime.probe_file import read_probes
from distiltune.export.runtime.probes import write_probes

SURROGATES = ["\ud800", "open \udfff"]
EVERY = [
    *TEXTS,
    *agreement.TEXTS,
    "open " * 18,
    "open " * 22,
    "open " * 23,
    "open " * 5000,
    "x" * 70_000 + " red",
]
Ids = Callable[[str, list[int]], list[int]]


class PanicException(BaseException):
    """The exception of a package in Rust that panics."""


class Fake(FastTokenizer):
    """A fast tokenizer with the ids of ``tokenizers``, after ``change``, untruncated; it records its texts."""

    def __init__(self, name: str = "fake", change: Ids = lambda text, ids: ids, version: str | None = "1.0"):
        super().__init__(name, self._opened)
        own: dict[str, Any] = {"opened": 0, "texts": [], "change": change, "installed": version}
        for attribute, value in own.items():
            object.__setattr__(self, attribute, value)

    opened: int
    texts: list[str]
    change: Ids
    installed: str | None

    def version(self) -> str | None:
        return self.installed

    def _opened(self, content: bytes, path: Path) -> Callable[[str], list[int]]:
        assert path.read_bytes() == content
        object.__setattr__(self, "opened", self.opened + 1)
        tokenizer = tokenizers.Tokenizer.from_buffer(content)
        tokenizer.no_truncation()

        def encode(text: str) -> list[int]:
            self.texts.append(text)
            return self.change(text, tokenizer.encode(text).ids)

        return encode


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "distiltune"


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that replaces the registered packages."""

    def replace(*fakes: FastTokenizer) -> None:
        monkeypatch.setattr(choose, "FAST_TOKENIZERS", {each.name: each for each in fakes})

    return replace


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return tiny_artifact(tmp_path / "artifact")


def fast(artifact: Path) -> TextClassifier:
    return TextClassifier.load(artifact, tokenizer="fast")


def test_one_that_agrees_is_used_for_single_texts(artifact: Path, use) -> None:
    fake = Fake()
    use(fake)
    classifier, plain = fast(artifact), TextClassifier.load(artifact)
    assert (classifier.tokenizer_name, classifier.tokenizer_why) == ("fake", None)
    assert (plain.tokenizer_name, plain.tokenizer_why) == ("tokenizers", None)
    fake.texts.clear()
    for text in EVERY:
        assert classifier(text) == plain(text)
    assert fake.texts == [text for text in EVERY if len(text) <= 2**16]
    fake.texts.clear()
    assert classifier(EVERY) == plain(EVERY)
    assert fake.texts == []
    assert classifier.profile("open", num_runs=3, num_warmups=0)["tokenizer_alone"] > 0
    assert len(fake.texts) == 9  # in each round: the whole call, its stages, and the library alone


def test_faults_of_a_text_are_those_of_tokenizers(artifact: Path, use) -> None:
    use(Fake())
    classifier = fast(artifact)
    for text in SURROGATES:
        with pytest.raises(InputError, match="text 0 is not valid Unicode"):
            classifier(text)


def raised(error: BaseException) -> Any:
    raise error


DISAGREE: dict[str, tuple[Ids, str]] = {
    "a script": (lambda text, ids: ids[:-1] + [5] if "ไทย" in text else ids, r"its ids differ for 'สวัสดี"),
    "a mark": (lambda text, ids: ids[:2] if "\u0301" in text else ids, "its ids differ for 'e\u0301"),
    "a control character": (lambda text, ids: ids[1:] if "\0" in text else ids, r"its ids differ for 'a\\x00b"),
    "the empty text": (lambda text, ids: ids if text else [], "its ids differ for ''"),
    "a blank text": (lambda text, ids: ids if text.strip() else [2], "its ids differ for ''"),
    "a long word": (lambda text, ids: ids if "d" * 250 not in text else [*ids, 1], "its ids differ for 'aaaa"),
    "truncation too early": (lambda text, ids: ids[:20], "its ids differ for"),
    "truncation by one": (lambda text, ids: ids[:23], "its ids differ for"),
    "truncation at the wrong side": (lambda text, ids: ids if len(ids) < 24 else ids[1:5], "its ids differ for"),
    "a fault": (lambda text, ids: raised(ValueError("no")) if "🇩🇪" in text else ids, r"fails on '😀.*\(ValueError\)"),
    "a panic": (lambda text, ids: raised(PanicException()) if "🇩🇪" in text else ids, "PanicException"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "why"), DISAGREE.values(), ids=DISAGREE)
def test_one_that_disagrees_is_not_used(artifact: Path, use, change: Ids, why: str) -> None:
    fake = Fake(change=change)
    use(fake)
    classifier = fast(artifact)
    assert classifier.tokenizer_name == "tokenizers"
    assert re.match(rf"fake 1\.0: .*{why}", classifier.tokenizer_why or "")
    fake.texts.clear()
    assert classifier("open early") == TextClassifier.load(artifact)("open early")
    assert fake.texts == []


def test_one_that_accepts_what_is_no_text_is_not_used(artifact: Path, use) -> None:
    class Lenient(Fake):
        def _opened(self, content: bytes, path: Path) -> Callable[[str], list[int]]:
            encode = super()._opened(content, path)
            return lambda text: encode(text.encode(errors="replace").decode())

    use(Lenient())
    assert "it accepts '\\ud800', which is not valid Unicode" in (fast(artifact).tokenizer_why or "")


@pytest.mark.parametrize(
    "error", [ValueError("Unsupported\nnormalizer"), PanicException("Unsupported normalizer")]
)
def test_one_that_does_not_open_the_file_is_not_used(artifact: Path, use, error: BaseException) -> None:
    class Limited(Fake):
        def _opened(self, content: bytes, path: Path) -> Callable[[str], list[int]]:
            raise error

    use(Limited())
    classifier = fast(artifact)
    assert classifier.tokenizer_name == "tokenizers"
    assert classifier.tokenizer_why == "fake 1.0: it does not open tokenizer.json (Unsupported normalizer)"


@pytest.mark.parametrize("where", ["_opened", "encode"])
def test_an_interrupt_is_no_disagreement(artifact: Path, use, where: str) -> None:
    class Interrupted(Fake):
        def _opened(self, content: bytes, path: Path) -> Callable[[str], list[int]]:
            if where == "_opened":
                raise KeyboardInterrupt
            return lambda text: raised(KeyboardInterrupt())

    use(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        fast(artifact)


def test_without_a_package_the_reason_can_be_read(artifact: Path, use) -> None:
    use(Fake("one", version=None), Fake("other", version=None))
    classifier = fast(artifact)
    assert classifier.tokenizer_name == "tokenizers"
    assert classifier.tokenizer_why == "one is not installed; other is not installed"


def test_the_next_one_is_tried(artifact: Path, use) -> None:
    last = Fake("last")
    use(Fake("absent", version=None), Fake("wrong", lambda text, ids: ids[1:]), Fake("right"), last)
    classifier = fast(artifact)
    assert classifier.tokenizer_name == "right"
    assert (classifier.tokenizer_why or "").startswith(
        "absent is not installed; wrong 1.0: its ids differ for ''"
    )
    assert last.opened == 0


def test_a_fault_that_no_text_of_the_comparison_shows_is_left_to_tokenizers(artifact: Path, use) -> None:
    def change(text: str, ids: list[int]) -> list[int]:
        return raised(PanicException()) if text == "late late" else ids

    use(Fake(change=change))
    classifier = fast(artifact)
    assert classifier.tokenizer_name == "fake"
    assert classifier("late late") == TextClassifier.load(artifact)("late late")

    def interrupted(text: str) -> list[int]:
        raise KeyboardInterrupt

    classifier._predictor.tokenizer.use("fake", interrupted, None)
    with pytest.raises(KeyboardInterrupt):
        classifier("open")


def test_the_texts_of_the_probes_are_compared(artifact: Path, use) -> None:
    write_probes(artifact)
    own = tokenizers.Tokenizer.from_file(str(artifact / "tokenizer.json"))
    texts = [own.decode(each.ids) for each in read_probes(artifact)]
    text = next(each for each in texts if len(own.encode(each)) < 20 and any(word in each for word in WORDS))
    use(Fake(change=lambda given, ids: ids[:-1] if given == text else ids))
    assert "its ids differ for" in (fast(artifact).tokenizer_why or "")
    (artifact / "probes.json").unlink()
    assert fast(artifact).tokenizer_name == "fake"


@pytest.mark.parametrize("given", [None, "tokenizers"])
def test_tokenizers_is_the_default(artifact: Path, use, given: str | None) -> None:
    fake = Fake()
    use(fake)
    assert TextClassifier.load(artifact, tokenizer=given).tokenizer_name == "tokenizers"
    assert fake.opened == 0


@pytest.mark.parametrize("given", ["", "Fast", "fake", 1, True, ["fast"], "x" * 500])
def test_another_name_is_refused(artifact: Path, given: Any) -> None:
    with pytest.raises(InputError, match=r"tokenizer is .*; give fast or tokenizers") as found:
        TextClassifier.load(artifact, tokenizer=given)
    assert len(str(found.value)) < 150


def test_a_length_that_is_not_compared_is_left_to_tokenizers(tmp_path: Path, use) -> None:
    use(Fake())
    long = tiny_artifact(tmp_path / "long", max_length=agreement.MOST_TOKENS + 1)
    assert "max_length is 4097" in (fast(long).tokenizer_why or "")
    longest = tiny_artifact(tmp_path / "longest", max_length=agreement.MOST_TOKENS)
    assert fast(longest).tokenizer_name == "fake"


@pytest.mark.parametrize("max_length", [3, 4, 5, 8])
def test_short_lengths_are_compared(tmp_path: Path, use, max_length: int) -> None:
    use(Fake())
    classifier = fast(tiny_artifact(tmp_path / "short", max_length=max_length))
    plain = TextClassifier.load(tmp_path / "short")
    assert classifier.tokenizer_name == "fake"
    for text in EVERY[:-1]:
        assert classifier(text) == plain(text)


def test_a_graph_of_token_types_is_left_to_tokenizers(artifact: Path, use) -> None:
    model = load_model(str(artifact / "model.onnx"))
    model.graph.input.append(helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, ["b", "s"]))
    save_model(model, str(artifact / "model.onnx"))
    use(Fake())
    classifier = fast(artifact)
    assert classifier.tokenizer_name == "tokenizers"
    assert "token_type_ids" in (classifier.tokenizer_why or "")
    assert classifier("open")["label"] in LABELS


# --- the cached verdict


def test_a_verdict_is_cached(artifact: Path, use, cache: Path) -> None:
    good, bad = Fake("good"), Fake("bad", lambda text, ids: ids[1:])
    use(bad, good)
    first = fast(artifact)
    compared = len(good.texts)
    assert compared > len(agreement.TEXTS)
    (file,) = cache.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    again = fast(artifact)
    assert (again.tokenizer_name, again.tokenizer_why) == (first.tokenizer_name, first.tokenizer_why)
    assert again.tokenizer_name == "good"
    assert (bad.opened, good.opened, len(good.texts)) == (1, 2, compared)


def test_another_version_file_or_length_is_compared_again(artifact: Path, tmp_path: Path, use) -> None:
    fake = Fake()
    use(fake)
    fast(artifact)

    def compares(place: Path) -> bool:
        fake.texts.clear()
        fast(place)
        return bool(fake.texts)

    assert not compares(artifact)
    copy = Path(shutil.copytree(artifact, tmp_path / "copy"))
    assert not compares(copy)
    config = json.loads((copy / "distiltune.json").read_text())
    (copy / "distiltune.json").write_text(json.dumps({**config, "max_length": 12}))
    assert compares(copy)
    (copy / "tokenizer.json").write_text((artifact / "tokenizer.json").read_text() + " ")
    assert compares(copy)
    assert not compares(copy)
    write_probes(copy)
    assert compares(copy)
    object.__setattr__(fake, "installed", "1.1")
    assert compares(copy)
    assert not compares(copy)


SPOILT = ["", "x", "{}", "a b\nc d\n", f"{'0' * 64} 1\n", f"{'0' * 64} [\n", f"{'0' * 63} null\n", "\xff" * 9]


@pytest.mark.parametrize("content", SPOILT)
def test_a_cache_that_is_damaged_is_ignored(artifact: Path, use, cache: Path, content: str) -> None:
    fake = Fake(change=lambda text, ids: ids[1:])
    use(fake)
    expected = fast(artifact).tokenizer_why
    (file,) = cache.iterdir()
    file.write_bytes(content.encode("latin-1"))
    assert fast(artifact).tokenizer_why == expected
    assert fake.opened == 2
    assert fast(artifact).tokenizer_why == expected
    assert fake.opened == 2


def test_a_cache_of_others_is_ignored(artifact: Path, use, cache: Path) -> None:
    fake = Fake()
    use(fake)
    fast(artifact)
    (file,) = cache.iterdir()
    file.chmod(0o666)
    fake.texts.clear()
    assert fast(artifact).tokenizer_name == "fake"
    assert fake.texts


def test_without_a_place_for_the_cache_it_is_compared_each_time(
    artifact: Path, use, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    fake = Fake()
    use(fake)
    for _ in range(2):
        fake.texts.clear()
        assert fast(artifact).tokenizer_name == "fake"
        assert fake.texts


def test_the_cache_stays_small(artifact: Path, use, cache: Path) -> None:
    choose._save_verdicts({f"{number:064}": "because" for number in range(400)})
    use(Fake())
    fast(artifact)
    (file,) = cache.iterdir()
    lines = file.read_text().splitlines()
    assert len(lines) == 256
    assert lines[-1].endswith(" null")


# --- the packages themselves


def test_a_name_is_registered_once() -> None:
    for fast_tokenizer in FAST_TOKENIZERS.values():
        with pytest.raises(ValueError, match=fast_tokenizer.name):
            register(fast_tokenizer)


def test_a_package_that_is_not_there_has_no_version() -> None:
    assert (
        FastTokenizer("no-such-package-of-anyone", lambda content, path: raised(ImportError())).version()
        is None
    )


@pytest.mark.parametrize("name", FAST_TOKENIZERS)
def test_a_package_gives_the_same_answers(artifact: Path, use, name: str) -> None:
    pytest.importorskip(name)
    use(FAST_TOKENIZERS[name])
    classifier, plain = fast(artifact), TextClassifier.load(artifact)
    if classifier.tokenizer_name == "tokenizers":
        assert (classifier.tokenizer_why or "").startswith(f"{name} ")
    for text in EVERY:
        assert classifier(text) == plain(text)
        ids = classifier._predictor.tokenizer.ids_of(text)
        assert ids == plain._predictor.tokenizer.ids_of(text)
        assert all(type(each) is int for each in ids)
    for text in SURROGATES:
        with pytest.raises(InputError, match="text 0 is not valid Unicode"):
            classifier(text)
    np.testing.assert_array_equal(classifier.logits(TEXTS), plain.logits(TEXTS))


def test_word_pieces_are_tokenized_by_nanotoken(artifact: Path) -> None:
    nanotoken_rs = pytest.importorskip("nanotoken.nanotoken_rs")
    nanotoken_rs.set_cache_entries(2**20)
    classifier, plain = fast(artifact), TextClassifier.load(artifact)
    assert (classifier.tokenizer_name, classifier.tokenizer_why) == ("nanotoken", None)
    assert nanotoken_rs.get_cache_entries() == 2**16
    expected, wrong = {text: plain(text) for text in EVERY}, []

    def classify(seed: int) -> None:
        texts = random.Random(seed).choices(EVERY[:-2], k=200)
        wrong.extend(text for text in texts if classifier(text) != expected[text])

    threads = [threading.Thread(target=classify, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
