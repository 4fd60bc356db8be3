"""The hook in any script that trains with accelerate, without an edit: ``install`` patches its classes once.

A batch of the script's loader is cut into pieces of ``micro_batch`` images. Between two pieces of one batch accelerate is told
that gradients are not to be synchronised, as it does itself while it accumulates, and the loss of each piece is weighted by
its share of the batch. The optimizer thus steps with the gradient of the same images as without us, whatever the pieces.
That holds for losses that are means over the images of a batch, and for networks without batch normalisation.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

from autotuner.adapters.accelerate_session import Session
from autotuner.adapters.out_of_memory import is_out_of_memory

_SESSION: Session | None = None
LOADERS = ("DataLoaderShard", "DataLoaderDispatcher")


def install(module: Any) -> None:
    """Patch ``accelerate.accelerator``; a second call does nothing."""
    accelerator = module.Accelerator
    if getattr(accelerator, "_autotuner", False):
        return
    from accelerate import data_loader, optimizer

    accelerator._autotuner = True
    _around(accelerator, "backward", _backward)
    _around(accelerator, "_do_sync", _do_sync)
    _around(accelerator, "init_trackers", _init_trackers)
    _around(accelerator, "log", _log)
    _around(optimizer.AcceleratedOptimizer, "step", _optimizer_step)
    for name in LOADERS:
        _around(getattr(data_loader, name), "__iter__", _iterate)
    _watch_the_end()


def session() -> Session:
    """The training of this process; a process has one, as accelerate's own state."""
    global _SESSION
    if _SESSION is None:
        _SESSION = Session()
    return _SESSION


def forget() -> None:
    """Begin anew with the next training; for tests and for notebooks that train twice."""
    global _SESSION
    if _SESSION is not None:
        _SESSION.close()
    _SESSION = None


def _around(owner: Any, name: str, ours: Callable[..., Any]) -> None:
    """Replace a method by ``ours(original, self, ...)``."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def patched(self: Any, *arguments: Any, **named: Any) -> Any:
        return ours(original, self, *arguments, **named)

    setattr(owner, name, patched)


def _backward(original: Callable[..., Any], accelerator: Any, loss: Any, **named: Any) -> Any:
    now = session()
    weight = now.weight
    result = original(accelerator, loss if weight == 1.0 else loss * weight, **named)
    now.safely(now.went_backward, accelerator, loss)
    return result


def _do_sync(original: Callable[..., Any], accelerator: Any) -> Any:
    now = session()
    now.safely(now.entered, accelerator)
    if now.between_pieces:
        accelerator.gradient_state._set_sync_gradients(False)
        return None
    return original(accelerator)


def _init_trackers(
    original: Callable[..., Any], accelerator: Any, project: str, config: Any = None, *rest: Any, **named: Any
) -> Any:
    now = session()
    now.safely(now.configured, config)
    return original(accelerator, project, config, *rest, **named)


def _log(original: Callable[..., Any], accelerator: Any, values: Any, step: Any = None, *rest: Any, **named: Any) -> Any:
    now = session()
    now.safely(now.logged, step)
    return original(accelerator, values, step, *rest, **named)


def _optimizer_step(original: Callable[..., Any], optimizer: Any, *arguments: Any, **named: Any) -> Any:
    now = session()
    now.safely(now.before_optimizer, optimizer)
    try:
        result = original(optimizer, *arguments, **named)
    finally:
        now.after_optimizer()
    now.safely(now.stepped, optimizer)
    return result


def _iterate(original: Callable[..., Any], loader: Any) -> Iterator[Any]:
    now = session()
    for batch in original(loader):
        ended = loader.end_of_dataloader
        pieces = now.pieces(loader, batch)
        for number, piece in enumerate(pieces, start=1):
            final = number == len(pieces)
            now.begin_piece(piece, final)
            loader.end_of_dataloader = ended and final
            yield piece.batch
            now.safely(now.asks_for_more, loader)


def _watch_the_end() -> None:
    """An exception that nobody catches is looked at before it is printed: the ring keeps that memory ran out."""
    before = sys.excepthook

    def hook(kind: Any, error: Any, trace: Any) -> None:
        now = session()
        if is_out_of_memory(error):
            now.safely(now.ran_out_of_memory)
        before(kind, error, trace)

    sys.excepthook = hook
