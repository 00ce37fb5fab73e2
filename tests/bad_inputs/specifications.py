"""Files without a valid specification, invalid ``--set`` options, and keys that contradict each other."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from distiltune.cluster.specification.config import PlanConfig, PlanStep
from distiltune.cluster.specification.resources import (
    BenchmarkResources,
    ExportResources,
    TeacherResources,
    TrialResources,
)
from distiltune.export.config import ChooseConfig, ExportConfig
from distiltune.search.config import SearchConfig
from distiltune.training.compression.config import PruningConfig
from distiltune.training.compression.pruning.magnitude import Magnitude
from distiltune.training.data.added_texts_config import UnlabelledConfig
from distiltune.training.data.analysis.config import DiagnosticsConfig
from distiltune.training.data.config import DataConfig
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.student.config import StudentConfig
from distiltune.training.teacher.config import ScratchConfig, TeacherConfig

from .case import SECRET, Case
from .damages import Damage, fifo, folder, link, sparse, write
from .schema import field, key, option

FILE = "job.yaml"
ALPHA, SEED = field(TrainingConfig, "alpha"), field(TrainingConfig, "seed")
SECTION = ALPHA.section[0]
ONE = f"{SECTION}:\n  {ALPHA.name}: 0.5\n"

BAD_FILES: dict[str, bytes | str] = {
    "open-bracket": f"{SECTION}: [1, 2",
    "tab": f"{SECTION}:\n\t{ALPHA.name}: 1\n",
    "two-colons": f"{SECTION}: {ALPHA.name}: 1\n",
    "open-quote": f'{SECTION}: "never closed\n',
    "unknown-alias": f"{SECTION}: *nowhere\n",
    "alias-of-itself": f"{SECTION}: &a\n  {ALPHA.name}: *a\n",
    "two-documents": f"{ONE}---\n{ONE}",
    "python-object": f'{SECTION}: !!python/object/apply:os.system ["touch pwned"]\n',
    "python-name": f"{SECTION}: !!python/name:os.system\n",
    "own-tag": f"{SECTION}: !mine {{a: 1}}\n",
    "binary-tag": f"{SECTION}: !!binary aGVsbG8=\n",
    "set-tag": f"{SECTION}: !!set {{a, b}}\n",
    "timestamp": f"{SECTION}: 2026-01-01\n",
    "impossible-date": f"{SECTION}:\n  {ALPHA.name}: 2026-13-45\n",
    "impossible-number": f"{SECTION}:\n  {ALPHA.name}: !!float word\n",
    "impossible-int": f"{SECTION}:\n  {ALPHA.name}: !!int 0xZZ\n",
    "huge-number": f"{SECTION}:\n  {SEED.name}: {'9' * 5000}\n",
    "sexagesimal": f"{SECTION}:\n  {ALPHA.name}: 1:30:00\n",
    "list": "- 1\n- 2\n",
    "word": "hello\n",
    "number": "42\n",
    "null-section": f"{SECTION}:\n  {ALPHA.name}:\n",
    "numbers-as-keys": "1: 2\n",
    "truth-as-key": "yes: 2\n",
    "list-as-key": "? [a, b]\n: 1\n",
    "section-as-key": f"? {{a: 1}}\n: {ONE!r}\n",
    "merge-of-a-word": f"{SECTION}:\n  <<: word\n",
    "binary": bytes(range(256)) * 4,
    "latin-1": f"{SECTION}: caf\xe9\n".encode("latin-1"),
    "utf-16": ONE.encode("utf-16"),
    "nul": f"{SECTION}:\0 1\n",
    "escape-codes": f"{SECTION}: \x1b[31mred\n",
    "deep": "[" * 5_000,
    "deep-braces": "{a: " * 5_000,
    "deep-keys": "".join(" " * n + "a:\n" for n in range(1500)),
    "deep-dashes": "- " * 5_000,
    "alias-bomb": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]\n" for p, c in itertools.pairwise("abcdefghijkl")),
    "merge-bomb": "a: &a {x: 1}\n"
    + "".join(f"{c}: &{c} {{<<: [{', '.join([f'*{p}'] * 9)}]}}\n" for p, c in itertools.pairwise("abcdefgh")),
    "long-key": f"{'k' * 5000}: 1\n",
    "long-value": f"{SECTION}:\n  {ALPHA.name}: {'v' * 5000}\n",
    "many-keys": "".join(f"key{n}: 1\n" for n in range(2000)),
    "json-cut": '{"training": {"alpha": 0.5}',
    "newlines-in-value": f'{SECTION}: {{{ALPHA.name}: "a\\nb\\nc"}}\n',
}
# What the error must name if not only the file.
NAMED = {
    "impossible-number": FILE,
    "huge-number": (SEED.path, FILE),
    "sexagesimal": ALPHA.path,
    "null-section": ALPHA.path,
    "timestamp": SECTION,
    "long-value": ALPHA.path,
    "newlines-in-value": ALPHA.path,
    "escape-codes": (SECTION, FILE),
}
ODD_FILES: dict[str, Damage] = {
    "folder": folder(FILE),
    "pipe": fifo(FILE),
    "endless": link(FILE, "/dev/zero"),
    "null-device": link(FILE, "/dev/stdin/x"),
    "loop": link(FILE, FILE),
    "dangling": link(FILE, "nowhere"),
    "huge": sparse(FILE, 40 << 20),
    "memory": link(FILE, "/proc/self/mem"),
}
SOURCES = {
    "empty": "",
    "missing": "no-such-file.yaml",
    "near-a-preset": "quikstart",
    "nul": "a\0b.yaml",
    "too-long": "x" * 5000,
    "name-too-long": "x" * 300 + ".yaml",
    "nobodys-home": "~nobody-at-all/job.yaml",
    "url": "https://example.invalid/job.yaml",
    "url-with-secret": f"https://user:{SECRET}@example.invalid/job.yaml",
    "newline": "a\nb",
    "dash": "-",
}
SETS = {
    "no-equals": "search.num_trials",
    "no-key": "=3",
    "empty": "",
    "only-dots": "...=3",
    "dot-at-end": f"{SECTION}.=3",
    "spaces": "  =3",
    "bad-yaml": f"{ALPHA.path}=[1, 2",
    "bad-brace": f"{ALPHA.path}={{a",
    "alias": f"{ALPHA.path}=*a",
    "python-tag": f"{ALPHA.path}=!!python/object/apply:os.getcwd []",
    "own-tag": f"{ALPHA.path}=!mine 3",
    "date": f"{ALPHA.path}=2026-13-45",
    "bad-int": f"{ALPHA.path}=!!int 0xZZ",
    "empty-value": f"{ALPHA.path}=",
    "long-value": f"{ALPHA.path}={'v' * 5000}",
    "long-key": f"{'k' * 5000}=1",
    "deep-key": ".".join("k" * 2000) + "=1",
    "deep-value": f"{ALPHA.path}={'[' * 3000}",
    "twice-in-value": f"{SECTION}={{{ALPHA.name}: 0.1, {ALPHA.name}: 0.2}}",
    "nul": f"{ALPHA.path}=a\0b",
    "newline": f"{ALPHA.path}=a\nb",
    "below-a-value": f"{ALPHA.path}.deeper=1",
    "below-a-list": f"{key(ExportConfig, 'variants')}.0=onnx",
    "unknown-section": "nonsense.key=1",
    "unknown-key": f"{SECTION}.alfa=1",
    "section-in-place": f"{SECTION}=7",
}
TWICE = {
    "key": f"{SECTION}:\n  {ALPHA.name}: 0.1\n  {ALPHA.name}: 0.2\n",
    "section": f"{ONE}{ONE}",
    "in-braces": f"{SECTION}: {{{ALPHA.name}: 0.1, {ALPHA.name}: 0.2}}\n",
    "quoted": f'{SECTION}:\n  {ALPHA.name}: 0.1\n  "{ALPHA.name}": 0.2\n',
    "same-value": f"{SECTION}:\n  {ALPHA.name}: 0.1\n  {ALPHA.name}: 0.1\n",
    "json": f'{{"{SECTION}": {{"{ALPHA.name}": 0.1, "{ALPHA.name}": 0.2}}}}',
    "in-a-list": f"{SECTION}: [{{{ALPHA.name}: 0.1, {ALPHA.name}: 0.2}}]\n",
}

# Name -> --set options, each valid by itself, and what the error must name.
TOGETHER: dict[str, tuple[tuple[str, ...], str]] = {
    "source-without-path": ((f"{key(DataConfig, 'source')}=clinc_json",), "path"),
    "source-without-files": ((f"{key(DataConfig, 'source')}=files",), "needs train"),
    "two-unlabelled": ((f"{field(DataConfig, 'unlabelled').path}={{path: a.txt, dataset: b}}",), "dataset"),
    "no-unlabelled": ((f"{field(DataConfig, 'unlabelled').path}={{count: 3}}",), "dataset"),
    "two-teachers": (
        (f"{key(TeacherConfig, 'scratch')}={{}}", f"{key(TeacherConfig, 'checkpoint')}=x"),
        "scratch",
    ),
    "checkpoint-of-another-kind": (
        (f"{key(StudentConfig, 'kind')}=layers", f"{key(StudentConfig, 'checkpoint')}=x"),
        key(StudentConfig, "checkpoint"),
    ),
    "kind-without-checkpoint": (
        (f"{key(StudentConfig, 'kind')}=checkpoint",),
        key(StudentConfig, "checkpoint"),
    ),
    "indivisible-heads": (
        (f"{key(ScratchConfig, 'hidden_size')}=100", f"{key(ScratchConfig, 'num_attention_heads')}=7"),
        "num_attention_heads",
    ),
    "ensemble-of-a-checkpoint": (
        (f"{key(TeacherConfig, 'checkpoint')}=x", f"{key(TeacherConfig, 'ensemble')}=3"),
        "ensemble",
    ),
    "teachers-and-a-teacher": (
        (
            f"{key(TeacherConfig, 'ensemble')}=[{{checkpoint: a}}, {{checkpoint: b}}]",
            f"{key(TeacherConfig, 'checkpoint')}=x",
        ),
        "ensemble",
    ),
    "list-of-one-teacher": (
        (f"{key(TeacherConfig, 'ensemble')}=[{{checkpoint: a}}]",),
        "a list of 1 given",
    ),
    "file-as-first-teacher": (
        (f"{key(TeacherConfig, 'ensemble')}=[{{logits: a.csv}}, {{checkpoint: b}}]",),
        "ensemble.0.logits",
    ),
    "teacher-without-weight": (
        (f"{key(TeacherConfig, 'ensemble')}=[{{checkpoint: a, weight: 0}}, {{checkpoint: b}}]",),
        f"{key(TeacherConfig, 'ensemble')}.0.weight",
    ),
    "teacher-of-negative-weight": (
        (f"{key(TeacherConfig, 'ensemble')}=[{{checkpoint: a}}, {{checkpoint: b, weight: -1}}]",),
        f"{key(TeacherConfig, 'ensemble')}.1.weight",
    ),
    "unknown-key-of-a-teacher": (
        (f"{key(TeacherConfig, 'ensemble')}=[{{checkpoint: a}}, {{chekpoint: b}}]",),
        f"{key(TeacherConfig, 'ensemble')}.1.chekpoint",
    ),
    "weights-given-and-fitted": (
        (
            f"{key(TeacherConfig, 'ensemble')}=[{{checkpoint: a, weight: 2}}, {{checkpoint: b}}]",
            f"{key(TeacherConfig, 'weights')}=fit",
        ),
        "ensemble.0.weight",
    ),
    "fitted-weights-of-one-teacher": ((f"{key(TeacherConfig, 'weights')}=fit",), "weights is 'fit'"),
    "the-same-teacher-twice": (
        (f"{key(TeacherConfig, 'ensemble')}=[{{checkpoint: a}}, {{checkpoint: a}}]",),
        "ensemble.0 and ensemble.1",
    ),
    "ensemble-unheard": (
        (f"{key(SearchConfig, 'space')}.{ALPHA.name}=1", f"{key(TeacherConfig, 'ensemble')}=3"),
        key(TeacherConfig, "ensemble"),
    ),
    "folds-of-a-checkpoint": (
        (f"{key(TeacherConfig, 'checkpoint')}=x", f"{key(DiagnosticsConfig, 'cross_fit')}=3"),
        key(DiagnosticsConfig, "cross_fit"),
    ),
    "more-folds-than-texts": (
        (f"{key(DataConfig, 'max_train_examples')}=60", f"{key(DiagnosticsConfig, 'cross_fit')}=10"),
        key(DiagnosticsConfig, "cross_fit"),
    ),
    "epochs-without-folds": (
        (f"{key(DiagnosticsConfig, 'cross_fit_epochs')}=3",),
        "cross_fit_epochs",
    ),
    "length-a-word": ((f"{key(TrainingConfig, 'max_length')}=automatic",), "auto"),
    "pass-below-a-text": (
        (f"{key(TrainingConfig, 'max_length')}=32", f"{key(TrainingConfig, 'max_batch_tokens')}=16"),
        key(TrainingConfig, "max_batch_tokens"),
    ),
    "mask-ends-before-it-begins": (
        (f"{key(PruningConfig, 'begin')}=0.8", f"{key(PruningConfig, 'end')}=0.2"),
        "begin",
    ),
    "sparsity-falls": (
        (f"{key(Magnitude, 'sparsity')}=0.2", f"{key(Magnitude, 'initial_sparsity')}=0.8"),
        "initial_sparsity",
    ),
    "gpus-of-one-process": ((f"{key(TrialResources, 'gpu')}=2",), "gpu"),
    "gpus-of-a-teacher": ((f"{key(TeacherResources, 'gpu')}=2",), "gpu"),
    "gpus-of-an-export": ((f"{key(ExportResources, 'gpu')}=2",), "gpu"),
    "gpus-of-a-measurement": ((f"{key(BenchmarkResources, 'gpu')}=2",), "gpu"),
    "fractional-gpus": (
        (f"{key(TrialResources, 'processes')}=2", f"{key(TrialResources, 'gpu')}=0.5"),
        "gpu",
    ),
    "threshold-of-nothing": (
        (f"{key(ExportConfig, 'out_of_scope')}=null", f"{key(ChooseConfig, 'accuracy')}=with_threshold"),
        "accuracy",
    ),
    "variant-twice": ((f"{key(ExportConfig, 'variants')}=[onnx, onnx]",), key(ExportConfig, "variants")),
    "objective-unknown": (
        (f"{key(SearchConfig, 'objectives')}=[{{metric: beauty, mode: max}}]",),
        "beauty",
    ),
    "constraint-words": (
        (f"{key(SearchConfig, 'constraints')}=[latency is low]",),
        key(SearchConfig, "constraints"),
    ),
    "constraint-unknown": ((f"{key(SearchConfig, 'constraints')}=[beauty <= 1]",), "beauty"),
    "metric-unknown": ((f"{key(SearchConfig, 'metric')}=beauty",), key(SearchConfig, "metric")),
    "point-unknown": ((f"{key(SearchConfig, 'points')}=[{{beauty: 1}}]",), "beauty"),
    "point-outside": ((f"{key(SearchConfig, 'points')}=[{{{ALPHA.name}: 7}}]",), key(SearchConfig, "points")),
    "space-unknown": ((f"{key(SearchConfig, 'space')}.learning_rat=0.1",), "learning_rat"),
    "space-falls": (
        (f"{key(SearchConfig, 'space')}.{ALPHA.name}={{type: float, low: 1, high: 0}}",),
        ALPHA.name,
    ),
    "space-infinite": (
        (f"{key(SearchConfig, 'space')}.{ALPHA.name}={{type: float, low: 0, high: .inf}}",),
        ALPHA.name,
    ),
    "space-not-a-number": (
        (f"{key(SearchConfig, 'space')}.{ALPHA.name}={{type: float, low: .nan, high: 1}}",),
        ALPHA.name,
    ),
    "space-fixed-not-a-number": ((f"{key(SearchConfig, 'space')}.{ALPHA.name}=.nan",), ALPHA.name),
    "space-no-type": ((f"{key(SearchConfig, 'space')}.{ALPHA.name}={{low: 0, high: 1}}",), ALPHA.name),
    "space-unknown-type": ((f"{key(SearchConfig, 'space')}.{ALPHA.name}={{type: dice}}",), ALPHA.name),
    "space-log-of-zero": (
        (f"{key(SearchConfig, 'space')}.{ALPHA.name}={{type: float, low: 0, high: 1, log: true}}",),
        ALPHA.name,
    ),
    "space-empty-choice": (
        (f"{key(SearchConfig, 'space')}.{ALPHA.name}={{type: choice, values: []}}",),
        ALPHA.name,
    ),
    "space-out-of-bounds": (
        (f"{key(SearchConfig, 'space')}.{ALPHA.name}={{type: float, low: 0, high: 7}}",),
        ALPHA.name,
    ),
    "space-circle": (
        (
            f"{key(SearchConfig, 'space')}.{ALPHA.name}={{type: float, low: 0, high: 1, when: {{temperature: 2}}}}",
            f"{key(SearchConfig, 'space')}.temperature={{type: int, low: 2, high: 4, when: {{{ALPHA.name}: 0}}}}",
        ),
        ALPHA.name,
    ),
    "scheduler-unknown": ((f"{key(SearchConfig, 'scheduler')}=hyperband",), key(SearchConfig, "scheduler")),
    "scheduler-key": ((f"{key(SearchConfig, 'scheduler')}={{type: asha, speed: 3}}",), "speed"),
    "scheduler-not-a-number": (
        (f"{key(SearchConfig, 'scheduler')}={{type: asha, reduction_factor: .nan}}",),
        "reduction_factor",
    ),
    "scheduler-infinite": (
        (f"{key(SearchConfig, 'scheduler')}={{type: asha, reduction_factor: .inf}}",),
        "reduction_factor",
    ),
    "argument-unknown": ((f"{key(TrainingConfig, 'arguments')}={{learning_rat: 1}}",), "learning_rat"),
    "argument-of-another-kind": ((f"{key(TrainingConfig, 'arguments')}={{adam_beta1: high}}",), "adam_beta1"),
    "argument-not-a-number": ((f"{key(TrainingConfig, 'arguments')}={{adam_beta1: .nan}}",), "adam_beta1"),
    "argument-that-writes": ((f"{key(TrainingConfig, 'arguments')}={{output_dir: /x}}",), "output_dir"),
    "layers-fall": ((f"{key(StudentConfig, 'layers')}=[3, 0]",), "layers"),
    "layers-repeat": ((f"{key(StudentConfig, 'layers')}=[0, 0]",), "layers"),
    "layers-below": ((f"{key(StudentConfig, 'layers')}=[-1]",), "layers"),
    "layers-above": ((f"{key(StudentConfig, 'layers')}=[99]",), "layers"),
    "layers-truths": ((f"{key(StudentConfig, 'layers')}=[true]",), "layers"),
    "layers-empty": ((f"{key(StudentConfig, 'layers')}=[]",), "layers"),
    "custom-below": ((f"{field(TrialResources, 'custom').path}={{x: -1}}",), "custom"),
    "custom-not-a-number": ((f"{field(TrialResources, 'custom').path}={{x: .nan}}",), "custom"),
    "lengths-twice": (("benchmark.lengths=[32, 32]",), "lengths"),
    "batch-sizes-zero": (("benchmark.batch_sizes=[0]",), "batch_sizes"),
    "unlabelled-folder": (
        (f"{field(DataConfig, 'unlabelled').path}={{{field(UnlabelledConfig, 'path').name}: /}}",),
        "unlabelled",
    ),
    "warm-start-unknown": (
        (f"{key(SearchConfig, 'warm_start')}=no-such-run",),
        key(SearchConfig, "warm_start"),
    ),
}
PLANS: dict[str, tuple[str, str]] = {
    "none": ("null", "plan"),
    "empty": ("{}", "steps"),
    "unknown-key": ("{steps: [{key: no.such, values: [1]}]}", "no.such"),
    "section": ("{steps: [{key: training, values: [1]}]}", "training"),
    "bad-value": (f"{{steps: [{{key: {ALPHA.path}, values: [7]}}]}}", ALPHA.path),
    "not-a-number": (f"{{steps: [{{key: {ALPHA.path}, values: [.nan]}}]}}", "plan.steps.0.values.0"),
    "no-values": (f"{{steps: [{{key: {ALPHA.path}, values: []}}]}}", key(PlanStep, "values")),
    "of-itself": ("{steps: [{key: plan.minimise, values: [size_mb]}]}", "plan"),
    "empty-key": ("{steps: [{key: '', values: [1]}]}", field(PlanConfig, "steps").path),
}


def _files() -> Iterator[Case]:
    turn = itertools.cycle(
        ("config", "config", "config", "run", "config", "train", "config", "plan", "submit")
    )
    for how, content in BAD_FILES.items():
        named = NAMED.get(how, FILE)
        most = {"many-keys": 4000, "alias-bomb": 1500, "merge-bomb": 1500}.get(
            how, 400
        )  # a fault for each key
        given = (next(turn), FILE)
        yield Case(
            f"specification/{how}", given, names=(named,), damage=write(FILE, content), most=most, light=True
        )
    for how, content in TWICE.items():
        yield Case(
            f"specification/twice-{how}",
            (next(turn), FILE),
            names=(FILE,),
            damage=write(FILE, content),
            light=True,
        )
    for how, damage in ODD_FILES.items():
        yield Case(f"specification/is-{how}", (next(turn), FILE), names=(FILE,), damage=damage, light=True)
    for how, source in SOURCES.items():
        named = re.split(r"[\n\0]", source.replace(f"user:{SECRET}@", ""))[0][:14] or "CONFIG"
        yield Case(
            f"specification/source-{how}",
            (next(turn), "--", source),
            names=((named, option("run", "source")),),
            light=True,
        )


def _settings() -> Iterator[Case]:
    turn = itertools.cycle(("config", "config", "run", "config", "train", "plan", "submit"))
    spelled = option("config", "overrides")
    for how, item in SETS.items():
        keys = item.partition("=")[0].split(".")
        # The fault may be that of an enclosing section, which is then named.
        named = (
            spelled,
            *filter(None, (".".join(keys[:number])[:40] for number in range(1, min(len(keys), 4) + 1))),
        )
        yield Case(f"set/{how}", (next(turn), f"{spelled}={item}"), names=(named,), light=True)


def _together() -> Iterator[Case]:
    spelled = option("run", "overrides")
    for how, (items, named) in TOGETHER.items():
        given = tuple(f"{spelled}={item}" for item in items)
        yield Case(f"together/{how}", ("run", *given), names=(named,))
    for how, (value, named) in PLANS.items():
        yield Case(f"plan/{how}", ("plan", f"{spelled}=plan={value}"), names=(named,))


CASES: tuple[Case, ...] = (*_files(), *_settings(), *_together())
