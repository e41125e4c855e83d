"""What a person reads of a training that ran out of memory: what happened, and what to do about it."""

# As Python, TensorFlow, XLA, CUDA and C++ say it, in small letters. Of a process that died, its log may have said it.
_SIGNS = ("memoryerror", "resourceexhausted", "resource_exhausted", "out of memory", "bad_alloc")


def with_remedy(reason: str, traceback: str, batch_size: int) -> str:
    """The reason why a training failed; if memory may have been short, with what to change.

    Args:
        reason: one line.
        traceback: of its exception (whose line may say no more than `Graph execution error`), or the end of its log.
        batch_size: of the training.
    """
    said = f"{reason}\n{traceback}".lower()
    if not any(sign in said for sign in _SIGNS):
        return reason
    smaller = f"batch_size {batch_size // 2} or fewer filters" if batch_size > 1 else "fewer filters"
    return f"{reason}; if memory is short, use {smaller}"
