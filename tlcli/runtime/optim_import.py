"""torch's optimizers without torch's compiler, whose import takes a second."""

import sys

from torch import optim

__all__ = ["optim"]

_KEPT_OUT = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def _lean() -> None:
    """Tell torch that there is no compiler to keep out of an optimizer's methods.

    Its wrapper of these imports the compiler at the first call, to make a function that it is kept
    out of, and remembers that in an attribute. Nothing here compiles an optimizer, so the plain
    function does; where torch has no such wrapper (any more), nothing happens.
    """
    if "torch._dynamo" in sys.modules:
        return
    for name in _KEPT_OUT:
        plain = getattr(getattr(optim.Optimizer, name, None), "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            setattr(plain, "__dynamo_disable", plain)


_lean()
