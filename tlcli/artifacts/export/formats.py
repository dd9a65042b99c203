"""The table of export formats. No torch.

Adding a format is adding a module with its `Format` and an entry here: the command's help, the
check of what is installed, the script and the tests follow from that.
"""

from collections.abc import Mapping

from tlcli.artifacts.export.exported_program import EXPORTED_PROGRAM
from tlcli.artifacts.export.format import Format
from tlcli.artifacts.export.onnx_file import ONNX
from tlcli.artifacts.export.state_dict import STATE_DICT

FORMATS: Mapping[str, Format] = {each.name: each for each in (STATE_DICT, EXPORTED_PROGRAM, ONNX)}
DEFAULT_FORMAT = STATE_DICT
