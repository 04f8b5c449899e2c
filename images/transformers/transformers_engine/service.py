"""The model that is being served, and whether there is one yet."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from .errors import Unavailable
from .generation import ModelFacts, PromptEncoder
from .metrics import Metrics
from .sequence import Sequence


class Submits(Protocol):
    """What the HTTP side needs of the engine."""

    @property
    def alive(self) -> bool: ...
    def submit(self, sequence: Sequence) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelService:
    facts: ModelFacts
    prompts: PromptEncoder
    engine: Submits
    created: int = field(default_factory=lambda: int(time.time()))

    def description(self) -> dict[str, Any]:
        """The model as an entry of `GET /v1/models`."""
        return {
            "id": self.facts.name,
            "object": "model",
            "created": self.created,
            "owned_by": "appliance",
            "root": self.facts.name,
            "parent": None,
            "max_model_len": self.facts.max_model_len,
        }


class ServiceState:
    """Empty while the model loads; endpoints answer 503 until `open`."""

    def __init__(self, metrics: Metrics) -> None:
        self.metrics = metrics
        self._service: ModelService | None = None

    def open(self, service: ModelService) -> None:
        self._service = service

    def service(self) -> ModelService:
        """The service; raises `Unavailable` while it loads and once its engine is dead."""
        if self._service is None:
            raise Unavailable("the model is still loading")
        if not self._service.engine.alive:
            raise Unavailable("the engine has failed and is about to be restarted")
        return self._service
