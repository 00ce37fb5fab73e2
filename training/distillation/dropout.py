"""Set a student's dropout for training only."""

from __future__ import annotations

from torch import nn

LONG = 512
"""Number of tokens of a text from which torch's flash kernel, which keeps no attention scores, pays off."""


def set_dropout(model: nn.Module, probability: float, *, on_cpu: bool, longest: int = 0) -> None:
    """Set the probability of all dropout modules of a model, in place; its configuration is not changed.

    Without dropout, torch's attention on a CPU uses its flash kernel, which is slow for texts of about ten tokens;
    attention is then switched to ``eager`` where the model supports it, unless texts are long.

    Args:
        model: Its ``nn.Dropout`` modules are changed.
        probability: 0 or more, below 1.
        on_cpu: Whether the model is trained on a CPU.
        longest: Tokens of the longest text, if it is known.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
    if on_cpu and probability == 0 and longest < LONG and hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation("eager")  # pyright: ignore[reportCallIssue]
