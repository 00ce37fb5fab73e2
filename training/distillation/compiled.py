"""The student's forward and backward compiled for the few shapes of full batches, with CUDA graphs on a GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...errors import first_line

logger = logging.getLogger(__name__)

MULTIPLE = 8
"""Batches are padded to multiples of this many tokens by default, so that few shapes are compiled."""

_MOST_SHAPES = 64


class CompiledModel:
    """Call a model compiled if possible, otherwise uncompiled.

    A batch of fewer texts, such as the last of an epoch, is run uncompiled. If compiling fails, for example because
    there is no C++ compiler, a warning is logged once, and the model is called uncompiled from then on.

    Args:
        model: The model, in training.
        batch_size: Texts of a full batch.
        compiler: ``torch.compile``, or a substitute for it in tests.
    """

    def __init__(
        self, model: nn.Module, batch_size: int, compiler: Callable[..., Any] = torch.compile
    ) -> None:
        self.model = model
        self._batch_size = batch_size
        self._on_gpu = next(model.parameters()).device.type == "cuda"
        mode = "reduce-overhead" if self._on_gpu else "default"  # the former records CUDA graphs
        self._compiled: Any = compiler(model, mode=mode, dynamic=False)

    def __call__(self, **features: Any) -> Any:
        """Return the model's outputs."""
        if self._compiled is None or len(features["input_ids"]) != self._batch_size:
            return self.model(**features)
        try:
            with torch._dynamo.config.patch(recompile_limit=_MOST_SHAPES):
                if self._on_gpu:
                    torch.compiler.cudagraph_mark_step_begin()  # the outputs of the last step are no longer needed
                return self._compiled(**features)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # of any of the layers below torch.compile
            logger.warning("the training is not compiled: %s: %s", type(error).__name__, first_line(error))
            self._compiled = None
            return self.model(**features)
