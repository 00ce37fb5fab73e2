"""Execution providers: the first must start, mixed installations are reported, and nodes are counted by provider."""

from importlib import metadata

import numpy as np
import onnxruntime as ort
import pytest
from artifacts import LABELS, TEXTS, tiny_artifact, tiny_graph
from fake_gpu import CPU, FakeSessions

import distiltune
from distiltune.cluster import cli
from distiltune.errors import InputError
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.runtime.session import bound_graph, providers
from distiltune.export.runtime.session.providers import CUDA, TENSORRT
from distiltune.export.runtime.session.session_options import session_options


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return tiny_artifact(tmp_path_factory.mktemp("artifact") / "a")


def install(monkeypatch, **versions):
    """Make only these distributions of ONNX Runtime appear to be installed."""

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    versions = {name.replace("_", "-"): value for name, value in versions.items()}
    monkeypatch.setattr(providers.metadata, "version", version)


@pytest.mark.parametrize("name", [CUDA, TENSORRT])
def test_a_provider_of_another_build_is_refused_with_what_to_install(name, artifact, monkeypatch):
    install(monkeypatch, onnxruntime="1.31.1")
    with pytest.raises(InputError) as raised:
        TextClassifier.load(artifact, providers=[name])
    message = str(raised.value)
    assert message.startswith(f"providers: {name} is not in this ONNX Runtime; it has ")
    assert CPU in message
    assert "pip uninstall -y onnxruntime`, then `pip install 'distiltune[gpu]'" in message
    assert "\n" not in message


def test_a_provider_of_neither_build_is_refused_without(artifact):
    with pytest.raises(InputError) as raised:
        TextClassifier.load(artifact, providers=["NoSuchProvider"])
    assert "NoSuchProvider is not in this ONNX Runtime" in str(raised.value)
    assert "pip" not in str(raised.value)


@pytest.mark.parametrize("name", [CUDA, TENSORRT])
def test_a_provider_that_does_not_start_is_refused_with_what_it_needs(name, artifact, monkeypatch):
    FakeSessions(monkeypatch, starts=())
    with pytest.raises(InputError) as raised:
        TextClassifier.load(artifact, providers=[name, CPU])
    assert f"providers: {name} does not start on this machine, where ONNX Runtime would use {CPU}" in str(
        raised.value
    )
    assert "NVIDIA driver" in str(raised.value)


def test_a_second_provider_that_starts_alone_does_not_stand_for_the_first(artifact, monkeypatch):
    FakeSessions(monkeypatch, starts=(CUDA,))
    with pytest.raises(InputError, match=f"{TENSORRT} does not start.*would use {CUDA}"):
        TextClassifier.load(artifact, providers=[TENSORRT, CUDA])


@pytest.mark.parametrize("given", [[CUDA], [(CUDA, {"device_id": "0"})], [TENSORRT, CUDA]])
@pytest.mark.parametrize("bound", [False, True])
def test_a_provider_that_starts_is_used(given, bound, artifact, monkeypatch):
    plain = TextClassifier.load(artifact)
    fake = FakeSessions(monkeypatch)
    classifier = TextClassifier.load(artifact, providers=given, io_binding=bound)
    assert fake.opened == [given]
    np.testing.assert_allclose(classifier.logits(TEXTS), plain.logits(TEXTS), atol=1e-6)


# --- Both distributions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("installed", "is_mixed"),
    [
        ({}, False),
        ({"onnxruntime": "1.31.1"}, False),
        ({"onnxruntime_gpu": "1.31.0"}, False),
        ({"onnxruntime": "1.31.1", "onnxruntime_gpu": "1.31.0"}, True),
    ],
)
def test_a_mixed_installation_is_one_clear_line(installed, is_mixed, monkeypatch):
    install(monkeypatch, **installed)
    message = providers.mixed_installation()
    assert (message is not None) == is_mixed
    if message is not None:
        assert message.startswith("onnxruntime 1.31.1 and onnxruntime-gpu 1.31.0 are both installed")
        assert "pip uninstall -y onnxruntime onnxruntime-gpu" in message
        assert "distiltune[gpu]" in message
        assert "\n" not in message


@pytest.mark.parametrize("available", [(), (CUDA,)])
def test_a_gpu_is_refused_in_a_mixed_installation(available, artifact, monkeypatch):
    install(monkeypatch, onnxruntime="1.31.1", onnxruntime_gpu="1.31.0")
    FakeSessions(monkeypatch, available=available)
    with pytest.raises(InputError, match="are both installed"):
        TextClassifier.load(artifact, providers=[CUDA])
    assert TextClassifier.load(artifact).labels == LABELS  # the CPU works with both installed


def test_without_any_the_remedy_is_one_line(monkeypatch, capsys):
    def missing(*_):
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

    monkeypatch.setattr(providers.util, "find_spec", lambda name: None)
    assert providers.missing_provider(CUDA) == providers.NOT_INSTALLED
    monkeypatch.setattr(distiltune, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match=r"distiltune\[cpu\]"):
        distiltune.TextClassifier  # noqa: B018
    monkeypatch.setattr(cli, "_run", missing)
    assert cli.main(["run", "job.yaml"]) == 2
    assert capsys.readouterr().err == f"error: {providers.NOT_INSTALLED}\n"


# --- Buffers and captured graphs ---------------------------------------------------------------------------------


@pytest.fixture
def bound(artifact):
    return TextClassifier.load(artifact, io_binding=True)


def test_buffers_on_the_cpu_give_the_same_predictions(artifact, bound):
    plain = TextClassifier.load(artifact)
    assert bound(TEXTS) == plain(TEXTS)
    for text in (*TEXTS, "", "open " * 40):
        assert bound(text) == plain(text)
    np.testing.assert_array_equal(bound.logits(TEXTS, batch_size=2), plain.logits(TEXTS, batch_size=2))
    profile = bound.profile(TEXTS[0], num_runs=2)
    assert all(each > 0 for each in profile.values())


def with_mask(directory):
    """Make an artifact whose graph reads the attention mask and sums the rows of each text without padding."""
    import onnx
    from onnx import TensorProto, helper

    folder, graph = tiny_artifact(directory), tiny_graph()
    graph.graph.input.append(
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "sequence"])
    )
    nodes = [
        helper.make_node("Cast", ["attention_mask"], ["kept"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["kept", "last"], ["kept_3d"]),
        helper.make_node("Mul", ["looked_up", "kept_3d"], ["rows"]),
    ]
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "last"))
    graph.graph.node[0].output[0] = "looked_up"
    for place, node in enumerate(nodes, 1):
        graph.graph.node.insert(place, node)
    # A mean over the padded length would depend on the padding; a sum does not.
    next(each for each in graph.graph.node if each.op_type == "ReduceMean").op_type = "ReduceSum"
    onnx.save_model(graph, str(folder / "model.onnx"))
    return folder


def test_texts_are_padded_to_few_shapes_where_the_graph_has_a_mask(tmp_path, monkeypatch):
    folder = with_mask(tmp_path / "masked")
    plain, fake = TextClassifier.load(folder), FakeSessions(monkeypatch)
    classifier = TextClassifier.load(folder, providers=[CUDA], cuda_graphs=True)
    texts = [" ".join(["open"] * count) for count in range(1, 25)]  # of up to 24 tokens, the maximum
    for text in texts:
        np.testing.assert_allclose(classifier.logits([text]), plain.logits([text]), rtol=1e-5, atol=1e-5)
    lengths = {length for batch, length in classifier._predictor.graph.shapes if batch == 1}
    assert lengths == {8, 16, 24}
    assert fake.opened == [[(CUDA, {"enable_cuda_graph": "1"})]]
    assert set(fake.graph_ids) == {str(number) for number in range(len(classifier._predictor.graph.shapes))}


def test_beyond_the_most_shapes_nothing_is_captured(artifact, monkeypatch):
    monkeypatch.setattr(bound_graph, "MOST_SHAPES", 2)
    plain, fake = TextClassifier.load(artifact), FakeSessions(monkeypatch)
    classifier = TextClassifier.load(artifact, providers=[CUDA], cuda_graphs=True)
    for count in (1, 2, 3, 4, 1):
        text = " ".join(["open"] * count)
        np.testing.assert_allclose(classifier.logits([text]), plain.logits([text]), atol=1e-6)
    assert len(classifier._predictor.graph.shapes) == 2
    assert "-1" in fake.graph_ids
    assert fake.graph_ids[-1] != "-1" or (1, 3) not in classifier._predictor.graph.shapes


@pytest.mark.parametrize("given", [None, [CPU], [TENSORRT, CUDA]])
def test_cuda_graphs_need_cuda_first(given, artifact, monkeypatch):
    FakeSessions(monkeypatch)
    with pytest.raises(
        InputError, match=f"cuda_graphs is True, but the first provider is .*; put {CUDA} first"
    ):
        TextClassifier.load(artifact, providers=given, cuda_graphs=True)


def test_buffers_are_safe_between_threads(artifact, bound):
    from concurrent.futures import ThreadPoolExecutor

    expected = {text: bound(text) for text in TEXTS}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(bound, TEXTS * 50))
    assert found == [expected[text] for text in TEXTS * 50]


# --- Where nodes run ---------------------------------------------------------------------------------------------


def test_nodes_are_counted_by_their_provider():
    options = session_options(1, {})
    options.add_session_config_entry(providers.RECORD_ASSIGNMENT, "1")
    session = ort.InferenceSession(tiny_graph().SerializeToString(), options, providers=[CPU])
    counts = providers.count_nodes(session)
    assert set(counts) == {CPU}
    assert 0 < counts[CPU] <= len(tiny_graph().graph.node)


def test_a_session_that_recorded_nothing_is_not_counted(artifact):
    assert TextClassifier.load(artifact).num_nodes is None
    assert providers.count_nodes(object()) is None  # an older ONNX Runtime


def test_nodes_on_the_cpu_are_seen_though_another_provider_comes_first(artifact, monkeypatch):
    FakeSessions(monkeypatch)
    counts = TextClassifier.load(artifact, providers=[CUDA]).num_nodes
    assert set(counts) == {CPU}  # the fake computes there
