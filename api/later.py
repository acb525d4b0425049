"""Dependencies that are asked for now and run later: a tile takes one turn in a thread, not one for each of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar, get_args, get_origin

from fastapi import Depends
from fastapi.params import Depends as Dependency

T = TypeVar("T")


def later(call: Callable[..., T]) -> Callable[..., Coroutine[Any, Any, Callable[[], T]]]:
    """A dependency with the parameters of another, in OpenAPI too, that hands out how to run it.

    FastAPI runs each dependency that may read from a disk in a thread of its own turn, a tenth of a millisecond each.

    Args:
        call: A plain function; those that its parameters depend on are run later too.
    """
    own = inspect.signature(call, eval_str=True)
    nested = {name: found for name, one in own.parameters.items() if (found := _dependency(one.annotation))}
    parameters = [
        one.replace(annotation=Annotated[Any, Depends(later(nested[name]))]) if name in nested else one
        for name, one in own.parameters.items()
    ]

    async def put_off(**given: Any) -> Callable[[], T]:
        return lambda: call(**{name: value() if name in nested else value for name, value in given.items()})

    put_off.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]  # what FastAPI looks at
    return put_off


def _dependency(annotation: Any) -> Callable[..., Any] | None:
    """The plain function that a parameter depends on, if it does."""
    if get_origin(annotation) is not Annotated:
        return None
    found = next((told.dependency for told in get_args(annotation) if isinstance(told, Dependency)), None)
    return found if inspect.isfunction(found) and not inspect.iscoroutinefunction(found) else None
