"""Makes `timm.optim` importable without torchvision.

Importing timm imports its models, which need torchvision; its optimizers need PyTorch alone.
"""

import importlib.util
import sys
import types
from pathlib import Path


def make_importable():
    """Let `from timm.optim import Lars, Lamb` work; False where timm or PyTorch is missing."""
    if "timm.optim" in sys.modules:
        return True
    spec = importlib.util.find_spec("timm")
    if spec is None or importlib.util.find_spec("torch") is None:
        return False
    folder = Path(spec.origin).parent
    for name, path in (("timm", folder), ("timm.optim", folder / "optim")):
        package = types.ModuleType(name)
        package.__path__ = [str(path)]
        sys.modules[name] = package
    from timm.optim.lamb import Lamb
    from timm.optim.lars import Lars

    sys.modules["timm.optim"].Lars, sys.modules["timm.optim"].Lamb = Lars, Lamb
    return True
