"""Made-up studies for the tests of plots."""

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

SPACE = {
    "alpha": FloatDistribution(0.0, 1.0),
    "temperature": IntDistribution(2, 20),
    "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
    "student.layers": CategoricalDistribution(["[0, 5]", "[0, 2, 5]", "[0, 1, 2, 3, 4, 5]"]),
    "optim": CategoricalDistribution(["adamw_torch_fused", "sgd"]),
    "momentum": FloatDistribution(0.0, 1.0),  # only with sgd
}


TWO = {"metric_names": ["validation_accuracy", "latency_ms"], "directions": ["maximize", "minimize"]}


def search(count, num_objectives=1, seed=0, names=tuple(SPACE), stopped=True):
    """Trials as a search leaves them: alpha matters, layers cost time; some were stopped, some failed."""
    random = np.random.default_rng(seed)
    trials = []
    for number in range(count):
        drawn = {
            "alpha": float(random.uniform()),
            "temperature": int(random.integers(2, 21)),
            "learning_rate": float(10 ** random.uniform(-5, -2)),
            "student.layers": SPACE["student.layers"].choices[random.integers(3)],
            "optim": SPACE["optim"].choices[random.integers(2)],
            "momentum": float(random.uniform()),
        }
        num_layers = len(drawn["student.layers"].split(","))
        accuracy = 0.94 - 0.08 * (drawn["alpha"] - 0.3) ** 2 - 0.02 / num_layers + random.normal(0, 0.002)
        latency = 0.2 + 0.19 * num_layers + random.normal(0, 0.01)
        values = [accuracy, latency, 1e6 * num_layers][:num_objectives]
        if drawn["optim"] != "sgd":
            del drawn["momentum"]
        params = {name: value for name, value in drawn.items() if name in names}
        state = TrialState.COMPLETE
        if stopped and number % 7 == 3:
            state = TrialState.PRUNED
        elif stopped and number % 11 == 5:
            state = TrialState.FAIL
        trial = optuna.trial.create_trial(
            state=state,
            values=values if state == TrialState.COMPLETE else None,
            params=params,
            distributions={name: SPACE[name] for name in params},
            intermediate_values={} if state == TrialState.FAIL else {50: accuracy - 0.03},
        )
        trial.number = number
        trials.append(trial)
    return trials
