"""Argo's rule for tries of a pod, in seconds: `processNodeRetries` of its workflow controller (4.0, read), as a model.

Phases as Argo tells them: `Failed`, the pod ended with a code that is not 0, was evicted or took too long; `Error`, the
pod is gone (deleted, preempted).
"""

from dataclasses import dataclass

RETRIED = {"OnFailure": {"Failed"}, "OnError": {"Error"}, "Always": {"Failed", "Error"}}


@dataclass(frozen=True)
class Strategy:
    """A retry strategy: tries after the first, the waits between, the bound of all, and which phases it is for."""

    limit: int
    duration: float
    factor: float
    max_duration: float
    policy: str


def tries(strategy, wanted, wait=0.0):
    """Return (seconds that it ran, phase) of each try, and the message of the last one's end.

    `wanted` are (seconds, phase) of each try if nobody ends it; a pod stays Pending for `wait` seconds first.
    """
    done, now, deadline = [], 0.0, float("inf")  # only later tries have a deadline
    for count, (seconds, phase) in enumerate(wanted, 1):
        ran = min(seconds, max(0.0, deadline - now - wait))
        if ran < seconds:
            return [*done, (ran, "Failed")], "Max duration limit exceeded"
        now += wait + ran
        done.append((ran, phase))
        if phase == "Succeeded":
            return done, ""
        if now > strategy.max_duration:
            return done, "Max duration limit exceeded"
        pause = strategy.duration * strategy.factor ** (count - 1)
        if now + pause > strategy.max_duration:
            return done, "Backoff would exceed max duration limit"
        if phase not in RETRIED[strategy.policy]:
            return done, "Node not set to be retried"
        if count > strategy.limit:
            return done, "No more retries left"
        now, deadline = now + pause, strategy.max_duration
    raise AssertionError(f"it would be tried more often than {wanted} says")
