"""No red line in a run in which nothing is wrong.

Ray Data hands actors what they are made of through the object store, and Ray then prints, in red,
to every user of an actor that may be restarted, that the restart would fail if that were lost
(ray issue 53727). What our actors are made of is a few kilobytes: handed over by value it travels
with the actor's description, is never lost, and there is nothing to print.
"""

from __future__ import annotations

import logging
import warnings

import ray

_PARTS = {"_map_transformer_ref": "_map_transformer", "_data_context_ref": "data_context"}


def be_quiet() -> None:
    """Keep what Ray says of its own affairs from the user of a job; errors are told by it."""
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is told by JobFailed
    # small jobs have fewer packs than a stage may have tasks
    warnings.filterwarnings("ignore", r"The (max|min)imum number of concurrent (tasks|actors) for")
    pass_by_value()


def pass_by_value() -> None:
    """Let Ray Data's actor pools hand their actors what they are made of by value."""
    from ray.data._internal.execution.operators import actor_pool_map_operator

    pool = actor_pool_map_operator.ActorPoolMapOperator
    for reference, value in _PARTS.items():
        # another version of Ray may have mended it; then it is left as it is
        if hasattr(pool, reference):
            setattr(pool, reference, property(lambda self, value=value: getattr(self, value)))


class ByValue:
    """A handle of an actor for the constructor of another, in place of the handle itself.

    A handle inside of constructor arguments is a reference, too, to the actor's creation. Pickled
    beforehand it is bytes; where it arrives it is the handle. Its actor lives as long as the
    driver keeps its own handle.
    """

    def __init__(self, handle):
        self._pickled = ray.cloudpickle.dumps(handle)

    def __reduce__(self):
        return ray.cloudpickle.loads, (self._pickled,)
