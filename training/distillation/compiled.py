"""The student's forward and backward compiled for the few shapes of full batches, with CUDA graphs on a GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import DistiltuneError, first_line

logger = logging.getLogger(__name__)

MULTIPLE = 8
"""Batches are padded to multiples of this many tokens by default, so that few shapes are compiled."""

_MOST_SHAPES = 64


class CompiledModel:
    """Call a model compiled if possible, otherwise uncompiled.

    A batch of fewer texts, such as the last of an epoch, is run uncompiled. If compiling fails, for example because
    there is no C++ compiler, a warning is logged once, and the model is called uncompiled from then on. The backward is
    compiled when it first runs, after the forward has returned, so ``step`` runs both.

    Args:
        model: The model, in training.
        batch_size: Texts of a full batch.
        with_graphs: Whether to record CUDA graphs on a GPU. It is not possible where gradients of several batches are
            added: the next batch would overwrite the memory that holds them.
        compiler: ``torch.compile``, or a substitute for it in tests.

    Attributes:
        failure: Why the model is called uncompiled; None while it is compiled.
    """

    def __init__(
        self,
        model: nn.Module,
        batch_size: int,
        with_graphs: bool = True,
        compiler: Callable[..., Any] = torch.compile,
    ) -> None:
        self.model = model
        self._batch_size = batch_size
        self._has_graphs = with_graphs and next(model.parameters()).device.type == "cuda"
        mode = "reduce-overhead" if self._has_graphs else "default"  # the former records CUDA graphs
        self._compiled: Any = compiler(model, mode=mode, dynamic=False)
        self._was_used = False
        self.failure: str | None = None

    def __call__(self, **features: Any) -> Any:
        """Return the model's outputs."""
        if self._compiled is None or len(features["input_ids"]) != self._batch_size:
            return self.model(**features)
        try:
            with torch._dynamo.config.patch(recompile_limit=_MOST_SHAPES):
                if self._has_graphs:
                    torch.compiler.cudagraph_mark_step_begin()  # the outputs of the last step are no longer needed
                outputs = self._compiled(**features)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # of any of the layers below torch.compile
            self._give_up(error)
            return self.model(**features)
        self._was_used = True
        return outputs

    def step(self, run: Callable[[], Tensor], undo: Callable[[], None]) -> Tensor:
        """Run the forward and backward of a step; run both again, uncompiled, if the compiled backward fails.

        Args:
            run: Calls this object, and adds to the gradients; returns the loss.
            undo: Called before ``run`` is called again; gradients are reset here.
        """
        if self._compiled is None:
            return run()
        self._was_used = False
        before = [
            (each, None if each.grad is None else each.grad.clone()) for each in self.model.parameters()
        ]
        try:
            return run()
        except (torch.cuda.OutOfMemoryError, DistiltuneError):
            raise
        except Exception as error:
            if not self._was_used:
                raise
            self._give_up(error)
        for parameter, gradient in before:
            parameter.grad = gradient
        undo()
        return run()

    def _give_up(self, error: Exception) -> None:
        self.failure = f"{type(error).__name__}: {first_line(error)}"
        logger.warning("the training is not compiled: %s", self.failure)
        self._compiled = None
