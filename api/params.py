"""What requests name, made into values: one small function or class per concern. Nothing below knows an id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Path, Request

from api.catalogue import Dataset
from api.state import get_state
from service.values import Window

DatasetId = Annotated[str, Path(description="id of a dataset, as GET /datasets lists it")]
WindowName = Annotated[str, Path(description="a year, or `2024-05-01..2024-09-30`")]


@dataclass(frozen=True)
class DatasetWindow:
    """A dataset, and one of the windows it holds."""

    dataset: Dataset
    """Its `store` is the one that holds `window`."""
    window: Window


def dataset_window(request: Request, dataset: DatasetId, window: WindowName) -> DatasetWindow:
    """The dataset and window that a path names.

    Raises:
        NotFound: No such dataset, or it holds no such window.
        InvalidInput: `window` is not a window.
    """
    when = Window.parse(window)
    return DatasetWindow(get_state(request).datasets[dataset].at(when), when)
