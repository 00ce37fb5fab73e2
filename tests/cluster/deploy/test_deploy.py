"""The deployment files, checked by the software that reads them: Ray's launcher and autoscaler, shell, botocore."""

import copy
import json
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "cluster" / "deploy"
LAUNCHER_FILES = ["aws.yaml", "onpremise.yaml"]
MANIFESTS = ["raycluster.yaml", "rayjob.yaml"]
RAY = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
TOKEN_SECRET = {"mode": "token", "secretName": "distiltune-ray-token"}

# Fields that KubeRay 1.6 accepts at each level that these manifests use.
CLUSTER_FIELDS = {
    "rayVersion",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "authOptions",
    "headGroupSpec",
    "workerGroupSpecs",
}
JOB_FIELDS = {
    "entrypoint",
    "submissionMode",
    "backoffLimit",
    "shutdownAfterJobFinishes",
    "ttlSecondsAfterFinished",
    "rayClusterSpec",
}
AUTOSCALER_FIELDS = {"upscalingMode", "idleTimeoutSeconds", "resources"}
HEAD_FIELDS = {"serviceType", "rayStartParams", "template"}
WORKER_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def documents(name: str) -> dict[str, dict[str, Any]]:
    """A manifest's objects by kind."""
    found = list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))
    return {document["kind"]: document for document in found}


def cluster_spec(name: str) -> dict[str, Any]:
    objects = documents(name)
    return (
        objects["RayCluster"]["spec"]
        if "RayCluster" in objects
        else objects["RayJob"]["spec"]["rayClusterSpec"]
    )


# --- private parts of Ray, used only here: the launcher's own check, and the reader of KubeRay's objects --------------


def launched(config: dict[str, Any]) -> dict[str, Any]:
    """Process a file as `ray up` does before it contacts a cloud.

    Raises:
        jsonschema.ValidationError, ValueError, RuntimeError: The error of `ray up`.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def node_types(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The kinds of node that Ray's autoscaler sees in a RayCluster."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    found = _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "x", "namespace": "y"}, "spec": spec}
    )
    return found["available_node_types"]


# --- the launcher's files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_ray_accepts_a_launcher_file(name):
    prepared = launched(load(name))
    # Ray's defaults would install another Ray into the container.
    assert (
        prepared["setup_commands"]
        == prepared["head_setup_commands"]
        == prepared["worker_setup_commands"]
        == []
    )


@pytest.mark.parametrize("name", LAUNCHER_FILES)
@pytest.mark.parametrize(
    "broken",
    [
        {"idle_timeout_minuts": 10},
        {"docker": {"image": "x", "container_name": "y", "run_option": []}},
        {"provider": {"region": "us-west-2", "type": 1}},
        {"max_workers": "six"},
        {"head_start_ray_commands": "ray start --head"},
    ],
    ids=lambda broken: next(iter(broken)),
)
def test_ray_refuses_a_broken_launcher_file(name, broken):
    with pytest.raises((jsonschema.ValidationError, ValueError, TypeError, NotImplementedError)):
        launched(load(name) | broken)


def test_ray_refuses_a_node_type_with_a_wrong_field():
    config = load("aws.yaml")
    config["available_node_types"]["trial_gpu"]["resources"]["GPU"] = "one"
    with pytest.raises(jsonschema.ValidationError):
        launched(config)
    config = load("aws.yaml")
    config["head_node_type"] = "haed"
    with pytest.raises(ValueError, match="head_node_type"):
        launched(config)


def test_aws_scales_from_nothing():
    types = launched(load("aws.yaml"))["available_node_types"]
    workers = {name: kind for name, kind in types.items() if name != "head"}
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["head"]["max_workers"] == 0
    assert set(workers) == {"trial_gpu", "benchmark_cpu"}
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in workers.values())
    assert sum(kind["max_workers"] for kind in workers.values()) <= load("aws.yaml")["max_workers"]
    assert workers["trial_gpu"]["resources"]["GPU"] == 1
    assert workers["benchmark_cpu"]["resources"]["benchmark_node"] == 1
    assert "GPU" not in workers["benchmark_cpu"]["resources"]


@pytest.mark.parametrize("kind", ["head", "trial_gpu", "benchmark_cpu"])
def test_ec2_knows_what_a_node_is_asked_for(kind):
    request = load("aws.yaml")["available_node_types"][kind]["node_config"] | {"MinCount": 1, "MaxCount": 1}
    assert not faults_of_an_ec2_request(request)
    assert faults_of_an_ec2_request(request | {"MetadataOptions": {"HttpToken": "required"}})


def faults_of_an_ec2_request(request: dict[str, Any]) -> str:
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.get_session().get_service_model("ec2")
    return (
        ParamValidator()
        .validate(request, model.operation_model("RunInstances").input_shape)
        .generate_report()
    )


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_every_node_gets_the_token_and_reports_no_usage(name):
    config = load(name)
    settings = container_environment(config)
    assert settings["RAY_AUTH_MODE"] == "token"
    assert settings["RAY_USAGE_STATS_ENABLED"] == "0"
    assert settings["RAY_JOB_STOP_SIGNAL"] == "SIGINT"
    home = containerfile_environment()["HOME"]
    mounts = [target.replace("~", home) for target in config["file_mounts"]]
    assert mounts == [str(Path(settings["RAY_AUTH_TOKEN_PATH"]).parent)]


def container_environment(config: dict[str, Any]) -> dict[str, str]:
    options = config["docker"]["run_options"]
    return dict(option.removeprefix("-e ").split("=", 1) for option in options if option.startswith("-e "))


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_ray_start_knows_every_option(name):
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in (*parameter.opts, *parameter.secondary_opts)}
    config = load(name)
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    used = {option for command in commands for option in re.findall(r"--[a-z][a-z-]*", command)}
    assert {"--head", "--address"} <= used <= known


@pytest.mark.parametrize("name", LAUNCHER_FILES)
def test_the_head_computes_nothing_and_its_dashboard_stays_on_loopback(name):
    [head] = [line for line in load(name)["head_start_ray_commands"] if "--head" in line]
    options = shlex.split(head)
    assert {"--num-cpus=0", "--dashboard-host=127.0.0.1", "--disable-usage-stats"} <= set(options)


@pytest.mark.parametrize(
    ("addresses", "resources"),
    [
        ("192.168.1.13 172.17.0.1", ['--resources={"benchmark_node":1}']),
        ("192.168.1.11 172.17.0.1", []),
        ("192.168.1.130", []),
    ],
)
def test_one_own_machine_has_the_resource_of_benchmarks(tmp_path, addresses, resources):
    [start] = [line for line in load("onpremise.yaml")["worker_start_ray_commands"] if "--address" in line]
    stand_in(tmp_path / "hostname", f"echo '{addresses}'")
    stand_in(tmp_path / "ray", 'printf "%s\\n" "$@"')
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RAY_HEAD_IP": "192.168.1.10"}
    out = subprocess.run(["bash", "-c", start], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.splitlines() == ["start", "--address=192.168.1.10:6379", *resources]
    for option in resources:
        assert json.loads(option.partition("=")[2]) == {"benchmark_node": 1}


def stand_in(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    path.chmod(0o755)


# --- Kubernetes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_knows_every_field(name):
    objects = documents(name)
    for kind in {"RayCluster", "RayJob"} & set(objects):
        assert objects[kind]["apiVersion"] == "ray.io/v1"
        assert objects[kind]["metadata"]["name"]
    spec = cluster_spec(name)
    assert set(spec) == CLUSTER_FIELDS
    assert set(spec["autoscalerOptions"]) <= AUTOSCALER_FIELDS
    assert set(spec["headGroupSpec"]) <= HEAD_FIELDS
    for group in spec["workerGroupSpecs"]:
        assert set(group) == WORKER_FIELDS
    if "RayJob" in objects:
        assert set(objects["RayJob"]["spec"]) <= JOB_FIELDS


@pytest.mark.parametrize("name", MANIFESTS)
def test_rays_autoscaler_reads_the_groups(name):
    spec = cluster_spec(name)
    assert spec["enableInTreeAutoscaling"] is True
    types = node_types(spec)
    assert types["headgroup"]["resources"]["CPU"] == 0
    assert {types[group]["min_workers"] for group in ("trial", "benchmark")} == {0}
    assert types["trial"]["resources"]["GPU"] == 1
    assert types["benchmark"]["resources"]["benchmark_node"] == 1
    assert "GPU" not in types["benchmark"]["resources"]


def test_rays_autoscaler_refuses_resources_that_are_not_quoted_twice(caplog):
    spec = cluster_spec("raycluster.yaml")
    benchmark = spec["workerGroupSpecs"][1]
    benchmark["rayStartParams"] = {"resources": '{"benchmark_node": 1}'}
    with caplog.at_level(logging.CRITICAL), pytest.raises(ValueError, match=r"Extra data|Expecting"):
        node_types(spec)


@pytest.mark.parametrize("name", MANIFESTS)
def test_start_parameters_are_text_and_survive_the_shell(name):
    spec = cluster_spec(name)
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    quoted = spec["workerGroupSpecs"][1]["rayStartParams"]["resources"]
    [option] = shlex.split(f"--resources={quoted}")
    assert json.loads(option.partition("=")[2]) == {"benchmark_node": 1}


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_are_bounded_unprivileged_and_take_secrets_from_secrets(name):
    spec = cluster_spec(name)
    assert spec["authOptions"] == TOKEN_SECRET
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        [container] = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["envFrom"] == [{"secretRef": {"name": "distiltune-storage"}}]
        # KubeRay gives its own probes to containers that have none.
        assert not {"livenessProbe", "readinessProbe"} & set(container)
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in container["env"]
    assert {"name": "RAY_JOB_STOP_SIGNAL", "value": "SIGINT"} in spec["headGroupSpec"]["template"]["spec"][
        "containers"
    ][0]["env"]


def test_both_manifests_describe_the_same_cluster():
    of_cluster, of_job = cluster_spec("raycluster.yaml"), cluster_spec("rayjob.yaml")
    pod = of_job["headGroupSpec"]["template"]["spec"]
    [volume] = pod.pop("volumes")
    [mount] = pod["containers"][0].pop("volumeMounts")
    assert of_job == of_cluster
    assert volume["name"] == mount["name"]
    assert volume["configMap"]["name"] == documents("rayjob.yaml")["ConfigMap"]["metadata"]["name"]
    assert mount["mountPath"] == "/jobs"


def test_only_the_cluster_and_the_operator_reach_the_pods():
    objects = documents("raycluster.yaml")
    cluster = {"ray.io/cluster": objects["RayCluster"]["metadata"]["name"]}
    policy = objects["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == cluster
    [rule] = policy["ingress"]
    assert rule["from"][0] == {"podSelector": {"matchLabels": cluster}}


def test_the_job_of_the_manifest_runs_the_file_that_is_mounted():
    objects = documents("rayjob.yaml")
    words = shlex.split(objects["RayJob"]["spec"]["entrypoint"])
    assert words[:3] == ["distiltune", "run", "/jobs/job.yaml"]
    assert words[words.index("--set") + 1] == "resources.address=auto"
    assert "--run-id" in words
    assert set(objects["ConfigMap"]["data"]) == {"job.yaml"}


def test_what_the_job_asks_for_is_what_the_groups_can_add():
    resources = yaml.safe_load(documents("rayjob.yaml")["ConfigMap"]["data"]["job.yaml"])["resources"]
    offered = [flat(node) for node in resources["autoscaling"]]
    types = node_types(cluster_spec("rayjob.yaml"))
    groups = [types[name]["resources"] for name in ("trial", "benchmark")]
    assert offered == [{key: group[key] for key in group if key != "memory"} for group in groups]
    for task in ("teacher", "trial", "export", "benchmark"):
        needed = flat(resources[task])
        assert any(all(node.get(key, 0) >= amount for key, amount in needed.items()) for node in offered), (
            task
        )


def flat(resources: dict[str, Any]) -> dict[str, float]:
    """`{cpu, gpu, custom}` in Ray's names."""
    names = {"cpu": "CPU", "gpu": "GPU"}
    plain = {names[key]: amount for key, amount in resources.items() if key != "custom"}
    return plain | resources.get("custom", {})


def test_distiltune_accepts_the_job_of_the_manifest(tmp_path):
    from distiltune.cluster.specification.config import load_config

    path = tmp_path / "job.yaml"
    path.write_text(documents("rayjob.yaml")["ConfigMap"]["data"]["job.yaml"], encoding="utf-8")
    config = load_config(str(path), ["resources.address=auto"])
    assert config.storage.path == "s3://example-bucket/distiltune"


# --- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAUNCHER_FILES + MANIFESTS)
def test_every_image_has_the_version_of_ray_that_is_pinned(name):
    assert RAY is not None
    images = re.findall(r"image: (\S+)", (DEPLOY / name).read_text(encoding="utf-8"))
    assert images
    for image in images:
        assert re.fullmatch(rf"registry\.example\.com/distiltune:ray{re.escape(RAY[1])}-(cpu|gpu)", image)
    if name in MANIFESTS:
        assert cluster_spec(name)["rayVersion"] == RAY[1]


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's instructions in order, continued lines joined."""
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    pairs = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(name, value.strip()) for name, _, value in pairs]


def containerfile_environment() -> dict[str, str]:
    words = [word for name, value in instructions() if name == "ENV" for word in shlex.split(value)]
    return dict(word.split("=", 1) for word in words)


def copied() -> list[str]:
    return [source for name, value in instructions() if name == "COPY" for source in shlex.split(value)[:-1]]


def test_the_containerfile_is_a_list_of_instructions_in_order():
    names = [name for name, _ in instructions()]
    assert set(names) <= {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENV", "USER", "CMD"}
    assert names[:2] == ["ARG", "FROM"]
    assert names[-1] == "CMD"
    assert names.index("USER") > max(index for index, name in enumerate(names) if name == "RUN")
    [user] = [value for name, value in instructions() if name == "USER"]
    assert user not in ("root", "0")
    assert containerfile_environment()["HOME"] == f"/home/{user}"
    assert json.loads(instructions()[-1][1])[0] == "distiltune"


def test_everything_that_the_image_copies_is_here_and_is_all_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert all((ROOT / source).exists() for source in copied())
    folders = {name.split(".")[1] for name in project["tool"]["setuptools"]["packages"] if "." in name}
    modules = {path.name for path in ROOT.glob("*.py")}
    needed = (
        folders | modules | {"pyproject.toml", "constraints.txt", project["project"]["readme"], "LICENSE"}
    )
    assert needed <= set(copied())


def test_the_image_installs_what_is_pinned():
    commands = [value for name, value in instructions() if name == "RUN" and value.startswith("pip install")]
    assert len(commands) == 3
    assert all("-c constraints.txt" in command for command in commands)
    assert [shlex.split(command)[-1] for command in commands] == ["torch", ".[cpu]", ".[gpu]"]


def test_an_image_has_one_build_of_onnx_runtime():
    """Each is installed in a stage of its own, and the last stage starts from one of the two."""
    stages: list[tuple[str, list[str]]] = []
    for name, value in instructions():
        if name == "FROM":
            stages.append((value, []))
        elif stages:
            stages[-1][1].append(f"{name} {value}")
    origins = [origin for origin, _ in stages]
    assert origins == ["python:3.11-slim AS base", "base AS cpu", "base AS gpu", "${RUNTIME}"]
    assert instructions()[0] == ("ARG", "RUNTIME=cpu")
    for (_, lines), extra in zip(stages[1:3], ("cpu", "gpu"), strict=True):
        assert [shlex.split(line)[-1] for line in lines] == [f".[{extra}]"]
    assert not any("pip" in line for line in stages[3][1])


def test_the_two_builds_are_extras_of_which_no_other_requirement_brings_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    holders = {
        name: [each for each in lines if re.match(r"onnxruntime\b", each)]
        for name, lines in {**extras, "": project["project"]["dependencies"]}.items()
    }
    found = {name: lines for name, lines in holders.items() if lines}
    assert found == {"cpu": ["onnxruntime>=1.22,<2"], "gpu": ["onnxruntime-gpu>=1.22,<2"]}
    assert project["tool"]["uv"]["conflicts"] == [[{"extra": "cpu"}, {"extra": "gpu"}]]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"-e '\.\[(.*?)\]'", makefile) == ["cpu,test,dev,offline"]


def test_what_the_image_copies_is_enough_to_build_the_package(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    for name in copied():
        place = ROOT / name
        shutil.copytree(place, source / name) if place.is_dir() else shutil.copy(place, source / name)
    build = "import sys, setuptools.build_meta as b; b.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=source, capture_output=True, check=True)
    [wheel] = out.glob("distiltune-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {"distiltune/__init__.py", "distiltune/cluster/cli.py", "distiltune/storage/store.py"} <= packed
    assert {f"distiltune/cluster/deploy/{path.name}" for path in DEPLOY.iterdir()} <= packed


@pytest.mark.parametrize(
    ("index", "options"), [("", ""), ("https://x/cpu", "--no-deps --index-url https://x/cpu ")]
)
def test_the_build_argument_chooses_the_build_of_torch(tmp_path, index, options):
    [command] = [value for name, value in instructions() if name == "RUN" and "$TORCH_INDEX" in value]
    stand_in(tmp_path / "pip", 'echo "$@"')
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TORCH_INDEX": index}
    out = subprocess.run(["sh", "-c", command], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == f"install --no-cache-dir -c constraints.txt {options}torch"


# --- the guide ----------------------------------------------------------------------------------------------------

GUIDE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


def shown_commands() -> list[list[str]]:
    """Return the words of each `distiltune …` command in the guide, without anything before the program."""
    shown, language = [], None
    for line in map(str.strip, GUIDE.splitlines()):
        if line.startswith("```"):
            language = line.removeprefix("```") if language is None else None
        elif language == "" and re.search(r"(^|-cpu )distiltune [a-z]", line):
            words = shlex.split(line)
            shown.append(words[words.index("distiltune") + 1 :])
    return shown


def test_the_guide_names_every_file_and_everything_to_replace():
    for path in DEPLOY.iterdir():
        assert path.name in GUIDE
        needed = re.search(
            r"^# Replace: ([^\n]+?)\.(?: The|$)", path.read_text(encoding="utf-8"), re.MULTILINE
        )
        for word in needed[1].split(", ") if needed else []:
            assert not re.fullmatch(r"\S+", word) or word.removeprefix("s3://example-") in GUIDE, word
    for secret in ("distiltune-ray-token", "distiltune-storage"):
        assert f"create secret generic {secret}" in GUIDE


@pytest.mark.parametrize("words", shown_commands(), ids=" ".join)
def test_the_guide_shows_commands_that_exist(words):
    import typer

    from distiltune.cluster.app import app

    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "commands"):
        name, *words = words
        assert name in command.commands
        command = command.commands[name]
    known = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert {word for word in words if word.startswith("-")} <= known
