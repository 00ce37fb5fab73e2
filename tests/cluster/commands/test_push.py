"""`push` and `pull hf://`: through huggingface_hub, with a server that implements the hub's HTTP API."""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from artifacts import LABELS, TEXTS, tiny_artifact
from commands import distiltune
from hub_server import READ_TOKEN, TOKEN, Hub, hub_server
from runfiles import Writer
from servers import free_port

from distiltune.cluster.store.runs import Storage
from distiltune.errors import ArtifactError, InputError
from distiltune.export.artifact.hub.repository import repository_named
from distiltune.export.artifact.seal import seal_artifact, verify_artifact
from distiltune.export.runtime.classifier import TextClassifier

NAME = "ada/intents"
LICENCES = {"teacher": "apache-2.0", "data": "cc-by-4.0"}
MADE_FROM = {"run_id": "r1", "licences": LICENCES}
MEASURED = {"accuracy": 0.9375}

Command = Callable[..., int]


def slow(*values):
    """More cases of the same kind."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with hub_server() as hub:
        yield hub


@pytest.fixture
def hub(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub for huggingface_hub of this process, which read its environment when it was imported."""
    from huggingface_hub import close_session, constants

    server.__init__(endpoint=server.endpoint)
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    template = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "home" / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    close_session()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_artifact(tmp_path_factory.mktemp("made") / "made")


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    return seal_artifact(made, tmp_path / "model", made_from=MADE_FROM, measurements=MEASURED)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def refused(capsys: pytest.CaptureFixture[str], status: int, *parts: str) -> str:
    """Return the error: the last line, which has these parts and no token."""
    out, err = capsys.readouterr()
    *before, line = err.strip().splitlines()
    assert out == ""
    assert line.startswith("error: ")
    assert not line.startswith("error: unexpected")
    assert len(line) < 400
    assert not any(each.startswith("error") for each in before)
    for part in parts:
        assert part in line
    assert "hf_writes" not in err
    assert "hf_reads" not in err
    return line


def test_an_artifact_survives_push_and_pull_byte_for_byte(
    here: Command, hub: Hub, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("push", "model", "--to", NAME) == 0
    out, err = capsys.readouterr()
    repo = hub.repos[NAME]
    assert not repo.private
    assert "public" in err
    assert f"{hub.endpoint}/{NAME}: 5 files pushed; commit {repo.branches['main']}" in out
    assert "licence" not in err
    assert repo.history()[1:] == [next(each for each in repo.history() if "run r1" in each)]
    assert contents(model).items() <= repo.at("main").files.items()
    assert here("pull", f"hf://{NAME}", "--to", "new/copy") == 0
    assert contents(tmp_path / "new" / "copy") == contents(model)
    assert TextClassifier.load(tmp_path / "new" / "copy")(TEXTS[0])["label"] in LABELS
    assert tree(tmp_path / "new") == {"copy", *(f"copy/{name}" for name in contents(model))}
    assert TOKEN not in out + err + "".join(capsys.readouterr())


@pytest.mark.slow
def test_the_commands_are_configured_by_the_environment_alone(
    server: Hub, model: Path, tmp_path: Path
) -> None:
    server.__init__(endpoint=server.endpoint)
    at_hub = {"HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    state, others = tmp_path / "home" / "state", {**at_hub, "HF_TOKEN": TOKEN}
    state.mkdir(parents=True)
    pushed = distiltune(state, "push", model, "--to", NAME, "--private", **others)
    assert pushed.returncode == 0, pushed.stderr
    assert server.repos[NAME].private
    assert "public" not in pushed.stderr
    pulled = distiltune(state, "pull", f"hf://{NAME}", "--to", tmp_path / "copy", **others)
    assert pulled.returncode == 0, pulled.stderr
    assert contents(tmp_path / "copy") == contents(model)
    assert TOKEN not in pushed.stdout + pushed.stderr + pulled.stdout + pulled.stderr
    # Nothing of the token is written anywhere.
    assert all(TOKEN.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_a_second_push_changes_nothing(
    here: Command, hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("push", "model", "--to", NAME) == 0
    capsys.readouterr()
    before = hub.repos[NAME].history()
    assert here("push", "model", "--to", NAME) == 0
    assert "nothing changed" in capsys.readouterr().out
    assert hub.repos[NAME].history() == before
    assert hub.seen("PUT /storage/") == 1


def test_another_artifact_replaces_the_files_of_the_first(
    here: Command, hub: Hub, made: Path, model: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(made, tmp_path / "source"))
    (source / "model.onnx.data").write_bytes(b"weights")
    seal_artifact(source, tmp_path / "first", made_from=MADE_FROM, measurements={})
    assert here("push", "first", "--to", NAME) == 0
    hub.repos[NAME].at("main").files["LICENSE"] = b"mine"
    assert here("push", "model", "--to", NAME) == 0
    assert set(hub.repos[NAME].at("main").files) == {".gitattributes", "LICENSE", *contents(model)}
    assert len(hub.repos[NAME].history()) == 3
    assert here("pull", f"hf://{NAME}", "--to", "copy") == 0
    assert contents(tmp_path / "copy") == contents(model)


def test_a_large_file_is_uploaded_as_a_large_file(
    here: Command, hub: Hub, made: Path, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(made, tmp_path / "source"))
    (source / "model.onnx.data").write_bytes(b"distiltune" * 1_100_000)
    seal_artifact(source, tmp_path / "large", made_from={}, measurements={})
    assert here("push", "large", "--to", NAME) == 0
    digest = hashlib.sha256((source / "model.onnx.data").read_bytes()).hexdigest()
    assert hub.seen(f"PUT /storage/{digest}") == 1
    assert here("pull", f"hf://{NAME}", "--to", "copy") == 0
    assert hub.seen(f"GET /storage/{digest}") == 1
    assert contents(tmp_path / "copy") == contents(tmp_path / "large")


def test_files_that_the_manifest_does_not_list_are_not_pushed(
    here: Command, hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "train.csv").write_text("text,label\nmy secret,balance\n")
    (model / "diagnostics").mkdir()
    (model / "diagnostics" / "texts.jsonl").write_text("my secret")
    assert here("push", "model", "--to", NAME) == 0
    assert "not list it: diagnostics, train.csv" in capsys.readouterr().err
    files = hub.repos[NAME].at("main").files
    assert set(files) == {".gitattributes", "manifest.json", *verify_list(model)}
    assert b"my secret" not in b"".join(files.values())


def verify_list(model: Path) -> set[str]:
    return set(json.loads((model / "manifest.json").read_text())["files"])


def test_the_timed_text_is_not_pushed(
    here: Command, hub: Hub, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = {**MEASURED, "query": "my secret text"}
    model = seal_artifact(made, tmp_path / "model", made_from=MADE_FROM, measurements=measured)
    assert any(b"my secret text" in each for each in contents(model).values())
    assert here("push", "model", "--to", NAME) == 0
    assert "not pushed: the text that was timed" in capsys.readouterr().err
    assert all(b"my secret text" not in each for each in hub.repos[NAME].at("main").files.values())
    assert here("pull", f"hf://{NAME}", "--to", "copy") == 0
    found = verify_artifact(tmp_path / "copy")
    assert found.measurements == MEASURED
    changed = {
        name for name, content in contents(model).items() if contents(tmp_path / "copy")[name] != content
    }
    assert changed == {"README.md", "manifest.json"}
    assert "| accuracy | 0.9375 |" in (tmp_path / "copy" / "README.md").read_text()
    assert here("push", "model", "--to", NAME) == 0
    assert len(hub.repos[NAME].history()) == 2


@pytest.mark.parametrize(
    ("licences", "parts"),
    [
        (None, ("teacher and data is unknown", "teacher.licence and data.licence")),
        slow({"teacher": "mit", "data": None}, ("of data is unknown", "set data.licence")),
        slow({"teacher": "unknown", "data": "mit"}, ("of teacher is unknown", "set teacher.licence")),
        ({"teacher": "mit", "data": "cc-by-nc-4.0"}, ("of the data, cc-by-nc-4.0, excludes commercial use",)),
        slow({"teacher": "cc-by-nc-sa-3.0", "data": "mit"}, ("of the teacher, cc-by-nc-sa-3.0, excludes",)),
    ],
)
def test_a_licence_that_forbids_or_is_unknown_warns(
    here: Command, hub: Hub, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], licences, parts
) -> None:
    made_from = {} if licences is None else {"licences": licences}
    seal_artifact(made, tmp_path / "model", made_from=made_from, measurements={})
    assert here("push", "model", "--to", NAME, "--private") == 0
    (warned,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    for part in parts:
        assert part in warned
    assert hub.repos[NAME].private


def test_a_run_and_the_latest_are_pushed(
    here: Command, hub: Hub, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Writer(Storage(str(tmp_path / "distiltune-runs"), retry_s=0), "done").finished().run
    folder = Path(run.store.local(run.artifact))
    shutil.rmtree(folder)
    shutil.copytree(model, folder)
    assert here("push", "latest", "--to", f"hf://{NAME}") == 0
    assert contents(model).items() <= hub.repos[NAME].at("main").files.items()
    assert here("push", "done", "--to", "ada/second") == 0
    assert here("push", "absent", "--to", "ada/third") == 2
    capsys.readouterr()
    assert set(hub.repos) == {NAME, "ada/second"}


def test_a_branch_is_made_pushed_to_and_pulled_from(
    here: Command, hub: Hub, made: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert here("push", "model", "--to", NAME) == 0
    seal_artifact(made, tmp_path / "second", made_from={"run_id": "r2"}, measurements={})
    assert here("push", "second", "--to", NAME, "--revision", "v2/beta") == 0
    assert f"hf://{NAME}@v2/beta" in capsys.readouterr().out
    first, second = (hub.repos[NAME].branches[each] for each in ("main", "v2/beta"))
    for revision, folder in (
        ("main", "model"),
        (first, "model"),
        ("v2/beta", "second"),
        (second[:40], "second"),
    ):
        to = revision.replace("/", "-")
        assert here("pull", f"hf://{NAME}@{revision}", "--to", to) == 0
        assert contents(tmp_path / to) == contents(tmp_path / folder)
    capsys.readouterr()
    assert here("pull", f"hf://{NAME}@v3", "--to", "copy") == 2
    refused(capsys, 2, f"hf://{NAME}@v3", "no such revision")


# Refused before any request to the hub


@pytest.mark.parametrize(
    "name", ["model.onnx", slow("README.md"), slow("tokenizer.json"), slow("distiltune.json")]
)
def test_a_damaged_artifact_is_not_pushed(
    here: Command, hub: Hub, model: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    content = bytearray((model / name).read_bytes())
    content[len(content) // 2] ^= 1
    (model / name).write_bytes(content)
    assert here("push", "model", "--to", NAME) == 2
    refused(capsys, 2, f"model: {name} was changed")
    assert hub.requests == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda model: (model / "model.onnx").unlink(),
        slow(lambda model: (model / "manifest.json").unlink()),
        slow(lambda model: (model / "manifest.json").write_text("{")),
        slow(shutil.rmtree),
        slow(lambda model: (shutil.rmtree(model), model.write_text("a file"))),
    ],
)
def test_a_folder_that_is_not_an_artifact_is_not_pushed(
    here: Command, hub: Hub, model: Path, capsys: pytest.CaptureFixture[str], damage
) -> None:
    damage(model)
    assert here("push", "./model", "--to", NAME) == 2
    refused(capsys, 2, "model")
    assert hub.requests == []


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "intents", "a/b/c", "/intents", "ada/", "../x", "ada/..", "ada/a--b", "ada/a..b", "ada/a.git",
        "ada/-a", "ada/a.", "ada/in tents", "ada/\nx", "ada/é", "ada/" + "x" * 93, "https://huggingface.co/ada/x",
        "datasets/ada/x", "ada/x@", "ada/x@..", "ada/x@a b", "ada/x@/a", "ada/x@" + "y" * 300, "hf://hf://ada/x",
    ],
)  # fmt: skip
def test_a_name_that_names_no_repository_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"^--to: "):
        repository_named(name, "--to")
    with pytest.raises(InputError, match=r"^RUN: "):
        repository_named(f"hf://{name}", "RUN")


def test_a_name_is_parsed() -> None:
    assert str(repository_named("ada/x", "--to")) == "hf://ada/x"
    assert str(repository_named("hf://ada/x.y_z-1@refs/pr/1", "RUN")) == "hf://ada/x.y_z-1@refs/pr/1"
    assert repository_named("ada/x", "--to", "v1").revision == "v1"
    with pytest.raises(InputError, match="once"):
        repository_named("ada/x@v1", "--to", "v2")
    with pytest.raises(InputError, match="--revision"):
        repository_named("ada/x", "--to", "a b")


def test_without_a_token_the_error_explains_how_to_log_in(
    here: Command,
    hub: Hub,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert here("push", "model", "--to", NAME) == 2
    refused(capsys, 2, "hf auth login", "HF_TOKEN")
    assert hub.requests == []
    (tmp_path / "home" / "token").mkdir(parents=True)
    assert here("push", "model", "--to", NAME) == 2
    refused(capsys, 2, "home/token", "hf auth login")
    (tmp_path / "home" / "token").rmdir()
    (tmp_path / "home" / "token").write_text(TOKEN)  # what `hf auth login` writes
    assert here("push", "model", "--to", NAME, "--private") == 0
    assert here("pull", f"hf://{NAME}", "--to", "copy") == 0
    assert TOKEN not in "".join(capsys.readouterr())


def test_offline_mode_is_reported(
    here: Command,
    hub: Hub,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert here("push", "model", "--to", NAME) == 2
    refused(capsys, 2, "HF_HUB_OFFLINE")
    assert here("pull", f"hf://{NAME}", "--to", "new/copy") == 2
    refused(capsys, 2, "HF_HUB_OFFLINE")
    assert not (tmp_path / "new").exists()
    assert hub.requests == []


# Existing content of the repository


@pytest.mark.parametrize(
    "files",
    [{"README.md": b"# mine"}, {"pytorch_model.bin": b"1", "config.json": b"{}", "manifest.json": b"{}"}],
)
def test_a_repository_of_something_else_is_overwritten_by_force_alone(
    here: Command, hub: Hub, model: Path, capsys: pytest.CaptureFixture[str], files: dict[str, bytes]
) -> None:
    repo = hub.make(NAME, files)
    overwritten = sorted(set(files) & set(contents(model)))
    kept = sorted(set(files) - set(overwritten))
    assert here("push", "model", "--to", NAME) == 2
    line = refused(capsys, 2, "--force", f"overwrites {', '.join(overwritten)}")
    assert all(name in line for name in kept)
    assert len(repo.history()) == 1
    assert here("push", "model", "--to", NAME, "--force") == 0
    assert f"overwrites {', '.join(overwritten)}" in capsys.readouterr().err
    assert contents(model).items() <= repo.at("main").files.items()
    assert all(repo.at("main").files[name] == files[name] for name in kept)


def test_an_empty_repository_is_filled(here: Command, hub: Hub, model: Path) -> None:
    hub.make(NAME, private=True)
    assert here("push", "model", "--to", NAME) == 0
    assert hub.repos[NAME].private
    assert contents(model).items() <= hub.repos[NAME].at("main").files.items()


def test_a_public_repository_is_not_taken_for_a_private_one(
    here: Command, hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = hub.make(NAME)
    assert here("push", "model", "--to", NAME, "--private") == 2
    refused(capsys, 2, "--private", "public")
    assert len(repo.history()) == 1


def test_a_gitignore_there_is_refused(
    here: Command, hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = hub.make(NAME, {".gitignore": b"*.onnx"})
    assert here("push", "model", "--to", NAME, "--force") == 2
    refused(capsys, 2, ".gitignore")
    assert len(repo.history()) == 1


# Responses of the hub


@pytest.mark.parametrize(
    ("fault", "answer", "status", "parts"),
    [
        (f"GET /api/models/{NAME}", 500, 1, ("500", "failure of its own")),
        slow(f"GET /api/models/{NAME}", 429, 1, ("429", "wait")),
        slow("POST /api/repos/create", 401, 1, ("401", "hf auth login")),
        slow("POST /api/repos/create", 403, 1, ("403", "write access")),
        slow("POST /api/repos/create", 502, 1, ("502", "failure of its own")),
        slow("preupload", 403, 1, ("403", "write access")),
        slow("preupload", 404, 2, ("no such model repository",)),
        slow("objects/batch", 401, 1, ("401", "hf auth login")),
        ("PUT /storage/", 403, 1, ("403",)),
        slow("/commit/", 400, 1, ("400", "rejects")),
        slow("/commit/", 409, 1, ("409", "changed meanwhile")),
        slow("/commit/", 412, 1, ("412", "changed meanwhile")),
        ("/commit/", 500, 1, ("500", "failure of its own")),
        ("preupload", b"<html>a portal</html>", 1, ("does not answer as a hub does",)),
    ],
)
def test_an_error_of_the_hub_is_one_line_and_commits_nothing(
    here: Command, hub: Hub, model: Path, capsys: pytest.CaptureFixture[str], fault, answer, status, parts
) -> None:
    hub.faults[fault] = answer
    assert here("push", "model", "--to", NAME) == status
    refused(capsys, status, NAME, *parts)
    assert all(len(repo.history()) == 1 for repo in hub.repos.values())


def test_a_concurrent_commit_is_not_overwritten(
    here: Command, hub: Hub, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    repo, send = hub.make(NAME), HfApi.create_commit

    def late(*arguments, **options):
        repo.add("main", "another's", {"README.md": b"another's"})
        return send(*arguments, **options)

    monkeypatch.setattr(HfApi, "create_commit", late)
    assert here("push", "model", "--to", NAME) == 1
    refused(capsys, 1, "412", "changed meanwhile")
    assert repo.history()[1:] == ["another's"]


@pytest.mark.parametrize(
    ("token", "name", "parts"),
    [
        slow(READ_TOKEN, NAME, ("403", "write access")),
        slow(TOKEN, "somebody/intents", ("403", "write access")),
        ("hf_writes_no_more", NAME, ("401", "hf auth login")),
        ("hf_writes\x01", NAME, ()),
        slow("hf_writes_é", NAME, ()),
    ],
)
def test_a_token_without_the_right_is_refused_and_never_shown(
    here: Command,
    hub: Hub,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    token: str,
    name: str,
    parts: tuple[str, ...],
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert here("push", "model", "--to", name) == 1
    refused(capsys, 1, name, *parts)
    assert hub.repos == {}


def test_a_card_that_the_hub_rejects_commits_nothing(
    here: Command, hub: Hub, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    licences = {"teacher": "not a licence", "data": "mit"}
    seal_artifact(made, tmp_path / "model", made_from={"licences": licences}, measurements={})
    assert here("push", "model", "--to", NAME) == 1
    refused(capsys, 1, '"license" must be one of')
    assert len(hub.repos[NAME].history()) == 1


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:{port}", "http://user:hf_writes@127.0.0.1:{port}", "nonsense"]
)
def test_a_hub_that_cannot_be_reached_is_one_line(
    here: Command,
    hub: Hub,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    endpoint: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint.format(port=free_port()))
    assert here("push", "model", "--to", NAME) == 1
    refused(capsys, 1, NAME, "HF_ENDPOINT", "cannot be reached")
    assert here("pull", f"hf://{NAME}", "--to", "new/copy") == 1
    refused(capsys, 1, NAME, "HF_ENDPOINT", "cannot be reached")
    assert not (tmp_path / "new").exists()


# Pulling


def damaged(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("name", ["model.onnx", slow("README.md"), slow("distiltune.json")])
@pytest.mark.parametrize("change", [damaged, lambda content: content[:-1], lambda _: None])
def test_a_repository_that_differs_from_its_manifest_leaves_nothing(
    here: Command,
    hub: Hub,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    change: Callable[[bytes], bytes | None],
) -> None:
    files = contents(model)
    changed = change(files[name])
    hub.make(
        NAME,
        {**files, name: changed}
        if changed is not None
        else {each: files[each] for each in files if each != name},
    )
    before = tree(tmp_path)
    assert here("pull", f"hf://{NAME}", "--to", "new/copy") == 2
    refused(capsys, 2, f"hf://{NAME}: {name}")
    assert tree(tmp_path) == before


def test_a_download_that_is_damaged_on_its_way_leaves_nothing(
    here: Command, hub: Hub, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.make(NAME, contents(model))
    hub.faults["GET /storage/"] = damaged((model / "model.onnx").read_bytes())
    before = tree(tmp_path)
    assert here("pull", f"hf://{NAME}", "--to", "copy") == 2
    refused(capsys, 2, f"hf://{NAME}: model.onnx was changed")
    hub.faults["GET /storage/"] = 403
    assert here("pull", f"hf://{NAME}", "--to", "copy") == 1
    refused(capsys, 1, f"hf://{NAME}", "403")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ({}, ("no manifest.json",)),
        slow({"config.json": b"{}", "model.safetensors": b"0"}, ("no manifest.json",)),
        ({"manifest.json": b"{}"}, ("format_version",)),
        slow({"manifest.json": b"no json"}, ("manifest.json", "JSON")),
        slow({"manifest.json": b" " * (16 * 2**20 + 1)}, ("16,777,217 bytes",)),
        ({"manifest.json": b'{"format_version": 1, "files": {"../x": {}}, "made_from": {}, "measurements": {}}'},
         ("../x",)),
    ],
)  # fmt: skip
def test_a_repository_without_an_artifact_leaves_nothing(
    here: Command, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], files, parts
) -> None:
    hub.make(NAME, files)
    assert here("pull", f"hf://{NAME}", "--to", "new/copy") == 2
    refused(capsys, 2, f"hf://{NAME}", *parts)
    assert tree(tmp_path) == set()


def test_a_repository_that_is_missing_or_private_is_one_line(
    here: Command,
    hub: Hub,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub.make("somebody/private", contents(model), private=True)
    for name in ("ada/none", "somebody/private"):
        assert here("pull", f"hf://{name}", "--to", "copy") == 2
        refused(capsys, 2, f"hf://{name}", "no such model repository", "hf auth login")
    monkeypatch.delenv("HF_TOKEN")
    for name in ("ada/none", "somebody/private"):
        assert here("pull", f"hf://{name}", "--to", "copy") == 1
        refused(capsys, 1, f"hf://{name}", "401", "hf auth login")
    hub.make(NAME, contents(model))
    assert here("pull", f"hf://{NAME}", "--to", "copy") == 0  # public: no token is needed
    assert contents(tmp_path / "copy") == contents(model)


def test_a_target_that_is_taken_is_refused_before_the_hub_is_asked(
    here: Command, hub: Hub, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for target in ("model", "file", "file/x", "", "~nobody-at-all/x"):
        assert here("pull", f"hf://{NAME}", "--to", target) == 2
        refused(capsys, 2, "--to")
    assert hub.requests == []


def test_a_full_disk_is_named_as_such(
    here: Command, hub: Hub, made: Path, tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(shutil.copytree(made, tmp_path / "source"))
    (source / "model.onnx.data").write_bytes(bytes(2**21))
    seal_artifact(source, tmp_path / "large", made_from={}, measurements={})
    hub.make(NAME, contents(tmp_path / "large"))
    assert here("pull", f"hf://{NAME}", "--to", str(small_disk / "copy")) == 2
    refused(capsys, 2, "--to", "No space left")
    assert tree(small_disk) == set()


@pytest.mark.parametrize("command", ["predict", "push", slow("verify"), slow("benchmark"), slow("evaluate")])
def test_other_commands_ask_for_a_pull_first(
    here: Command, hub: Hub, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    more = {"predict": ["a text"], "evaluate": ["data.csv"], "push": ["--to", NAME]}.get(command, [])
    assert here(command, f"hf://{NAME}", *more) == 2
    refused(capsys, 2, f"distiltune pull hf://{NAME} --to")
    assert hub.requests == []


@pytest.mark.parametrize("given", [f"hf://{NAME}", Path(f"hf://{NAME}")])
def test_the_library_asks_for_a_pull_first(given: str | Path) -> None:
    with pytest.raises(ArtifactError, match=f"distiltune pull hf://{NAME} --to"):
        TextClassifier.load(given)


def test_the_log_of_the_client_is_as_before(
    here: Command, hub: Hub, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    level = logging.getLogger("huggingface_hub").level
    hub.faults["/commit/"] = 500
    assert here("push", "model", "--to", NAME) == 1
    assert logging.getLogger("huggingface_hub").level == level
    assert hub.seen("/commit/") == 1
