"""torch.optim without importing torch's compiler, which takes a second."""

import sys

from torch import optim

__all__ = ["optim"]

_DYNAMO_DISABLED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def _skip_dynamo() -> None:
    """Mark the optimizers' methods as already excluded from compilation.

    Torch wraps them so that the first call imports the compiler, makes a function that is excluded
    from compilation, and remembers it in an attribute. Nothing here compiles an optimizer, so the
    plain function will do. Nothing happens where torch has no such wrapper (any more).
    """
    if "torch._dynamo" in sys.modules:
        return
    for name in _DYNAMO_DISABLED:
        plain = getattr(getattr(optim.Optimizer, name, None), "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            setattr(plain, "__dynamo_disable", plain)


_skip_dynamo()
