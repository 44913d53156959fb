"""What a script imports: attention capture, exported prior sets, and one page about a clip.

    from motion_enhancer import CaptureSpec, capture_attention, look, read_priors

Each name is imported when it is first used, so that `import motion_enhancer` takes no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.attention_capture.capture import CaptureSpec, capture_attention
    from components.cli.look import look
    from components.prior_set.reading import read_priors

__all__ = ["CaptureSpec", "__version__", "capture_attention", "look", "read_priors"]
__version__ = "0.1.0"

_HOME = {
    "CaptureSpec": "components.attention_capture.capture",
    "capture_attention": "components.attention_capture.capture",
    "look": "components.cli.look",
    "read_priors": "components.prior_set.reading",
}


def __getattr__(name: str) -> Any:
    """Import a name of `__all__` (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'motion_enhancer' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return __all__
