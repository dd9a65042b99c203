"""torchvision without importing torch's compiler, which takes as long as the rest of torchvision.

`torchvision.ops` imports one function of `torch._dynamo.utils`, which only its detection models
call. A stand-in module takes the compiler's place while torchvision is imported; its function
imports the real one when it is called.
"""

import sys
from types import ModuleType
from typing import Any

_REPLACED = "torch._dynamo.utils"


class _StandIn(ModuleType):
    """A module with `is_compile_supported`; any other name imports the real module after all."""

    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        from torch._dynamo.utils import is_compile_supported

        return bool(is_compile_supported(device_type))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # `inspect` asks every module for its file
            raise AttributeError(name)
        sys.modules.pop(_REPLACED, None)
        import torch._dynamo.utils

        return getattr(torch._dynamo.utils, name)


def _import() -> Any:
    if "torchvision" not in sys.modules and _REPLACED not in sys.modules:
        sys.modules[_REPLACED] = _StandIn(_REPLACED)
    try:
        import torchvision
    finally:
        if isinstance(sys.modules.get(_REPLACED), _StandIn):
            del sys.modules[_REPLACED]
    return torchvision


torchvision = _import()
