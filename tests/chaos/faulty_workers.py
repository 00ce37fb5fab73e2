"""Set-up of the workers in ``test_faulty_trials``: a trial's weight decay selects its fault."""

import os
import signal

RAISES, OUT_OF_MEMORY, KILLED = 0.01, 0.02, 0.03
TOO_MUCH = 2**50  # bytes


def install() -> None:
    import torch

    from distiltune.training.distillation.trainer import DistillationTrainer

    compute_loss = DistillationTrainer.compute_loss

    def faulty(self, *args, **kwargs):
        if self.args.weight_decay == RAISES:
            raise ValueError("broken by the test")
        if self.args.weight_decay == OUT_OF_MEMORY:
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        if self.args.weight_decay == KILLED:  # as the kernel does when the memory is gone
            os.kill(os.getpid(), signal.SIGKILL)
        return compute_loss(self, *args, **kwargs)

    DistillationTrainer.compute_loss = faulty
