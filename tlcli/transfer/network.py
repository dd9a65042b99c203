"""Keep scripts running that `tlcli export` wrote before its modules moved.

They import `build_network` from here and call `NETWORK.whole`. New scripts call
`tlcli.create_model`.
"""

from tlcli.backbones.network import Network, build_network

__all__ = ["build_network"]

setattr(Network, "whole", Network.model)  # noqa: B010  (mypy knows no such attribute)
