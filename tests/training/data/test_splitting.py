"""Splits held out of train: they keep label shares and groups, and depend on neither order nor process."""

import json
import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from distiltune.training.data.splitting import hold_out

SHARES = {"validation": 0.1, "test": 0.2}


def rows_of(counts: dict[str, int]) -> list[tuple[str, str]]:
    return [(f"{label} number {i}", label) for label, count in counts.items() for i in range(count)]


def held(rows, shares=SHARES, seed=0, groups=None) -> dict[str, list[int]]:
    texts, labels = zip(*rows, strict=True)
    return hold_out(texts, labels, groups or [None] * len(rows), shares, seed)


def contents(rows, found) -> dict[str, set]:
    return {name: {rows[i] for i in indices} for name, indices in found.items()}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "counts",
    [
        {"a": 100, "b": 37, "c": 10, "d": 3, "e": 2, "f": 1},
        {f"label {i}": 4 for i in range(100)},
        {f"label {i}": i % 7 + 1 for i in range(60)},
        {"many": 500, "few": 5},
    ],
)
@pytest.mark.parametrize(
    "shares", [SHARES, {"test": 0.1}, {"validation": 0.1, "test": 0.1}, {"validation": 0.6, "test": 0.35}]
)
def test_every_label_has_its_share_to_within_one_row(counts, shares, seed):
    rows = rows_of(counts)
    found = held(rows, shares, seed)
    assert list(found) == ["train", *shares]
    assert sorted(i for indices in found.values() for i in indices) == list(range(len(rows)))
    assert all(indices == sorted(indices) for indices in found.values())
    taught = Counter(rows[i][1] for i in found["train"])
    assert taught.keys() == counts.keys()
    for name, share in shares.items():
        have = Counter(rows[i][1] for i in found[name])
        assert all(abs(have[label] - share * count) < 1 for label, count in counts.items() if count > 1)
        spread = sum(count for count in counts.values() if count > 1)
        if sum(shares.values()) < 0.5:  # larger splits lack the rows that labels keep in train
            assert abs(len(found[name]) - share * spread) <= max(1, 0.02 * spread)


def test_the_rows_depend_on_neither_order_nor_process_but_on_the_seed():
    rows = rows_of({"a": 40, "b": 25, "c": 9})
    expected = contents(rows, held(rows))
    shuffled = random.Random(1).sample(rows, len(rows))
    assert contents(shuffled, held(shuffled)) == expected
    assert contents(rows, held(rows, seed=1)) != expected
    code = (
        "import json, sys\nfrom distiltune.training.data.splitting import hold_out\n"
        "texts, labels = zip(*json.loads(sys.stdin.read()))\n"
        "print(json.dumps(hold_out(texts, labels, [None] * len(texts), {'validation': 0.1, 'test': 0.2}, 0)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(shuffled),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert contents(shuffled, json.loads(done.stdout)) == expected


def test_equal_texts_and_groups_are_never_separated():
    numbers = random.Random(0)
    rows = [(f"Text {numbers.randrange(150)}", f"label {numbers.randrange(5)}") for _ in range(400)]
    rows += [(text.upper().replace(" ", "  "), label) for text, label in rows[:100]]
    groups = [f"user {numbers.randrange(300)}" if numbers.random() < 0.3 else None for _ in rows]
    for seed in range(3):
        found = held(rows, seed=seed)
        where = {name: {" ".join(rows[i][0].casefold().split()) for i in found[name]} for name in found}
        assert not where["train"] & (where["validation"] | where["test"])
        assert not where["validation"] & where["test"]
        assert abs(len(found["validation"]) - 50) < 15 and abs(len(found["test"]) - 100) < 15
    rows = rows_of({"a": 200, "b": 200})
    groups = [f"user {numbers.randrange(60)}" if numbers.random() < 0.8 else None for _ in rows]
    found = held(rows, groups=groups)
    where = {name: {groups[i] for i in found[name]} - {None} for name in found}
    assert not where["train"] & (where["validation"] | where["test"])
    assert not where["validation"] & where["test"]
    for name, share in SHARES.items():
        counts = Counter(rows[i][1] for i in found[name])
        assert all(abs(counts[label] - share * 200) < 8 for label in "ab")


def test_groups_of_texts_and_columns_are_joined_transitively():
    rows = [("one", "a"), ("ONE", "b"), ("two", "b"), ("Two ", "a"), *rows_of({"a": 20, "b": 20})]
    groups = [None, "g", "g", "h", "h", *[None] * 39]
    for seed in range(10):
        found = held(rows, seed=seed, groups=groups)
        assert sum(bool({0, 1, 2, 3, 4} & set(indices)) for indices in found.values()) == 1


@pytest.mark.parametrize("seed", range(5))
def test_large_groups_leave_every_label_in_train_and_no_split_empty(seed):
    rows = rows_of({"a": 30, "b": 30, "c": 12})
    groups = [f"user {i // 6}" for i in range(72)]  # label c has two groups
    found = held(rows, seed=seed, groups=groups)
    assert all(found.values())
    assert {rows[i][1] for i in found["train"]} == {"a", "b", "c"}
    few = held(rows_of({"a": 2, "b": 2}), seed=seed)
    assert [len(indices) for indices in few.values()] == [2, 1, 1]


def test_a_split_stays_empty_if_train_can_spare_nothing():
    assert held(rows_of({"a": 1, "b": 1, "c": 1}))["test"] == []
    rows = rows_of({"a": 10, "b": 10})
    found = held(rows, groups=["one"] * 20)
    assert [len(indices) for indices in found.values()] == [20, 0, 0]
