"""torchvision, imported without torch's compiler.

`torchvision.ops` asks `torch._dynamo.utils` for one function, which only its detection models call,
and with that comes a second of importing: as long as all the rest of torchvision. So a stand-in is
there while torchvision is imported; the function it hands out fetches the real one when called.
"""

import sys
from types import ModuleType
from typing import Any

_REAL = "torch._dynamo.utils"


class _StandIn(ModuleType):
    """Hands out `is_compile_supported`; any other name imports the real module after all."""

    @staticmethod
    def is_compile_supported(device_type: str) -> bool:
        from torch._dynamo.utils import is_compile_supported

        return bool(is_compile_supported(device_type))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # `inspect` asks every module for its file
            raise AttributeError(name)
        sys.modules.pop(_REAL, None)
        import torch._dynamo.utils

        return getattr(torch._dynamo.utils, name)


def _import() -> Any:
    if "torchvision" not in sys.modules and _REAL not in sys.modules:
        sys.modules[_REAL] = _StandIn(_REAL)
    try:
        import torchvision
    finally:
        if isinstance(sys.modules.get(_REAL), _StandIn):
            del sys.modules[_REAL]
    return torchvision


torchvision = _import()
