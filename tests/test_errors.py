"""What an error shows of what was given: one line, short, no secrets; paths that cannot be are refused by name."""

from pathlib import Path

import pytest

from distiltune.errors import DataError, InputError, first_line, shown, user_path, without_userinfo


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://KEY:SECRET@bucket/runs", "s3://bucket/runs"),
        ("s3://KEY:se/cr+et=@bucket/runs?region=eu", "s3://bucket/runs?region=eu"),
        ("http://user:secret@host:9000/a", "http://host:9000/a"),
        ("http://user:p@ss@host/a", "http://host/a"),
        ("https://secret@host", "https://host"),
        (
            "{'path': 's3://KEY:SECRET@bucket', 'x': 'http://u:secret@h'}",
            "{'path': 's3://bucket', 'x': 'http://h'}",
        ),
        ("http://host:9000/mail@home", "http://host:9000/mail@home"),
        ("s3://bucket/mail@home", "s3://bucket/mail@home"),
        ("mail@home", "mail@home"),
    ],
)
def test_userinfo_is_taken_out_of_urls(text, expected):
    assert without_userinfo(text) == expected


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def ascii_start(name):
    return ascii(name[:16])


VALUES = {
    "text": "x" * 10**6,
    "bytes": b"\0" * 10**6,
    "integer": 10**5000,
    "list": list(range(10**5)),
    "nested": nested(10**5),
    "control": "a\nb\r\x1b[31m\u2028",
    "userinfo": "://a:" * 10**5 + "@",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_value_is_shown_short_and_on_one_line(value):
    text = shown(value)
    assert len(text) <= 60
    assert text.isprintable()


def test_a_value_is_shown_without_its_secret():
    for value in ("s3://KEY:SECRET@bucket", {"path": "s3://KEY:SECRET@bucket"}, ["http://u:SECRET@h"]):
        assert "SECRET" not in shown(value)
        assert "SECRET" not in first_line(ValueError(f"no such {value}"))


@pytest.mark.parametrize(
    "name",
    ["", "  ", "~no-such-user/x", "a\0b", "\ud800", "x" * 300, "a/" * 3000, "x" * 10**6],
    ids=ascii_start,
)
def test_a_path_that_cannot_be_is_refused_with_its_parameter(name):
    with pytest.raises(DataError, match=r"^data\.path: '.* given, ") as caught:
        user_path(name, "data.path", DataError)
    assert len(str(caught.value)) < 200
    with pytest.raises(InputError):
        user_path(name, "storage.path")


def test_the_home_directory_is_expanded_and_nothing_need_be_there(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/runs", "storage.path") == tmp_path / "runs"
    assert user_path("runs", "storage.path") == Path("runs")
