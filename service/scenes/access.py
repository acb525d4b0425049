"""What reaches catalogues and scenes for this process: the policy, a client that keeps to it, and what it fetched."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from service.scenes.fetch import Fetcher
from service.scenes.hosts import Policy
from service.store.records import Records


@dataclass(frozen=True)
class Access(Policy):
    """A policy and the means. Made from the settings; one for all datasets and threads."""

    records: Records = field(default_factory=Records, compare=False)
    """Where what was fetched stays: neighbouring blocks read the same tiles."""

    @cached_property
    def fetcher(self) -> Fetcher:
        """What fetches; made when first needed, its connections are shared."""
        return Fetcher(self)
