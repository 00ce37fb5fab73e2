"""What surrounds a command stays outside of Ray's workers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import json, os, sys
from distiltune.cluster.cli import main
main(["runs", "--storage", "none"])
from distiltune.cluster.session.ray_session import ray_session
from distiltune.cluster.specification.resources import ResourcesConfig
import ray

def look():
    import datasets
    return datasets.__file__, sorted(os.environ), os.getcwd()

with ray_session(ResourcesConfig(num_cpus=1)):
    found = ray.get(ray.remote(look).remote())
print(json.dumps(found))
"""


@pytest.mark.slow
def test_workers_import_nothing_from_the_working_directory_and_join_no_group(tmp_path):
    for name in ("datasets", "torch", "utils"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n", encoding="utf-8")
    done = subprocess.run(
        # -P: as the console script, which has its own directory on the path and not the working directory
        [sys.executable, "-P", "-c", CODE],
        cwd=tmp_path,
        env={**os.environ, "WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    module, variables, directory = json.loads(done.stdout.splitlines()[-1])
    assert Path(module).parent.name == "datasets"
    assert not {"WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT"} & set(variables)
    assert directory == str(tmp_path), "relative paths mean what they mean to the command"
