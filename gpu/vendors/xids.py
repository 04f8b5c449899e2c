"""NVIDIA's error events (XID): they are told once, to who listens, so a thread listens between the readings."""

from __future__ import annotations

import ctypes
import threading
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

import pynvml

_WAIT_MS: Final = 1000
_MOST_KEPT: Final = 1000
"""Events of one period; a device in a storm of errors is fenced by the first."""


class XidWatch:
    """Events of the devices that support them; `take` gives what came since it was last called."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: dict[str, list[int]] = defaultdict(list)

    @classmethod
    def begin(cls, handles: Iterable[Any]) -> XidWatch:
        """Listen from now on, in a thread that ends with the process. Where events are not supported none comes."""
        watch = cls()
        with suppress(pynvml.NVMLError):
            events = pynvml.nvmlEventSetCreate()
            names = dict(watch._registered(handles, events))
            if names:
                threading.Thread(target=watch._listen, args=(events, names), name="xids", daemon=True).start()
        return watch

    def take(self) -> dict[str, tuple[int, ...]]:
        """By UUID, in the order they came."""
        with self._lock:
            taken = {uuid: tuple(codes) for uuid, codes in self._events.items()}
            self._events.clear()
        return taken

    @staticmethod
    def _registered(handles: Iterable[Any], events: Any) -> Iterable[tuple[int, str]]:
        for handle in handles:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
                yield _address(handle), _uuid(handle)

    def _listen(self, events: Any, names: dict[int, str]) -> None:
        while True:
            try:
                event = pynvml.nvmlEventSetWait(events, _WAIT_MS)
            except pynvml.NVMLError_Timeout:
                continue
            except pynvml.NVMLError:
                return  # the driver went away: the next reading says so
            uuid = names.get(_address(event.device)) or _uuid(event.device)
            with self._lock:
                codes = self._events[uuid]
                if len(codes) < _MOST_KEPT:
                    codes.append(int(event.eventData))


def _uuid(handle: Any) -> str:
    """Empty where the device does not answer any more."""
    with suppress(pynvml.NVMLError):
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        return str(uuid.decode() if isinstance(uuid, bytes) else uuid)
    return ""


def _address(handle: Any) -> int:
    """What a handle is the same by."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
