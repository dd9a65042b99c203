"""Keep scripts running that `tlcli export` wrote before its modules moved.

They import `build_network` from here. New scripts name `tlcli.backbones.network`.
"""

from tlcli.backbones.network import build_network

__all__ = ["build_network"]
