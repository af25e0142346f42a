"""What a built-in task gives a worker to send in a round.

Mostly one gradient of one batch. MARINA's compressed rounds need two on the same batch, at
the present parameters and at those before the last round; its dense rounds are on a larger
batch. Where all data is used each round, the last round's gradient is what it was, and is
kept by the sender.

Source: Gorbunov et al. 2021 (MARINA), Algorithm 3 (VR-MARINA, online).
"""

from __future__ import annotations

from psrv.codec.channel import Feedback
from psrv.plan import Plan
from psrv.worker.replica import Replica
from psrv.worker.sender import Sender


class TaskGradient:
    """The gradients of a plan's task at a replica's parameters, for any sender."""

    def __init__(self, plan: Plan, replica: Replica) -> None:
        self._task, self._replica, self._anchor = plan.task, replica, plan.anchor
        marina = plan.job.method.up.feedback is Feedback.MARINA
        self._twice = marina and plan.task.batch_size is not None
        if self._twice:
            replica.keep_previous()

    def batch(self, sender: Sender, round: int) -> object:
        """The data of the sender's rank for the round."""
        if self._twice and sender.dense(round):
            return self._task.batch(sender.rank, round, self._anchor)
        return self._task.batch(sender.rank, round)

    def compute(self, sender: Sender, round: int, batch: object) -> None:
        """Write the round's gradient, and the previous one where it is needed."""
        task, rank = self._task, sender.rank
        task.gradient(rank, self._replica.parameters, round, batch, sender.gradient)
        if self._twice and not sender.dense(round):
            last, out = self._replica.previous, sender.previous
            assert last is not None
            assert out is not None
            task.gradient(rank, last, round, batch, out)
