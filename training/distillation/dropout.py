"""A student's dropout, set for its training alone."""

from __future__ import annotations

from torch import nn


def set_dropout(model: nn.Module, probability: float, *, on_cpu: bool) -> None:
    """Give every dropout of a model this probability, in place; its configuration stays as it is.

    Without dropout torch's attention on a CPU takes its flash kernel, which is slow for texts of some ten tokens:
    there attention is then worked out in single steps (``eager``), where the model can.

    Args:
        model: Its ``nn.Dropout`` modules are changed.
        probability: 0 up to, and without, 1.
        on_cpu: Whether the model is trained on a CPU.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
    if on_cpu and probability == 0 and hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")  # pyright: ignore[reportCallIssue]
