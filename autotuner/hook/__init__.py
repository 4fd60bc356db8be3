"""The hook: the part of Autotuner that lives inside a training process. Standard library only, and cheap to import."""

from autotuner.hook.attach import attach, knob
from autotuner.hook.warning import AutotunerWarning

TYPE_CHECKING = False  # typing costs more than this whole package; type checkers know the name
if TYPE_CHECKING:
    from autotuner.hook.run import Run

__all__ = ["AutotunerWarning", "Run", "attach", "knob"]


def __getattr__(name: str) -> object:
    """Import ``Run`` on first use, so that ``import autotuner.hook`` stays cheap."""
    if name == "Run":
        from autotuner.hook.run import Run

        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
