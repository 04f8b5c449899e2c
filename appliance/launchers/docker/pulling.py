"""Pulling an image that is not on this machine, and the words for one that cannot be had.

Only a name that says where it comes from is pulled: one with a registry's host, or with the digest of its content. Any
other name stands for what was built here, and the daemon would ask a public registry for a stranger's image of it.
"""

from __future__ import annotations

from typing import Any

from docker import APIClient
from docker.errors import APIError

from appliance.kernel.progress import Progress
from appliance.launchers.docker.answers import explanation
from appliance.launchers.errors import ImageMissing

SILENCE_S = 30
"""Within which the daemon says something while it pulls."""
_COMPLETE = ("Download complete", "Pull complete", "Already exists")
_REASON_CHARACTERS = 300


def may_pull(image: str) -> bool:
    host, slash, _ = image.partition("/")
    named = bool(slash) and ("." in host or ":" in host or host == "localhost")
    return not image.startswith("sha256:") and (named or "@sha256:" in image)


def missing(image: str) -> ImageMissing:
    """For an image that is not pulled."""
    return ImageMissing(
        f"The image {image} is not on this machine, and is not pulled: its name has neither a registry's host nor "
        "a digest; build it (images/build.sh), load it (docker load), or choose another."
    )


def pull(client: APIClient, image: str, progress: Progress) -> None:
    """Pull `image`, telling the bytes of its layers. Raises `ImageMissing` with the registry's or daemon's words."""
    layers: dict[str, tuple[int, int]] = {}
    try:
        for event in client.pull(image, stream=True, decode=True):
            if said := event.get("error"):
                raise _failed(image, str(said))
            _count(layers, event)
            progress.report(sum(done for done, _ in layers.values()), sum(total for _, total in layers.values()))
    except APIError as error:
        raise _failed(image, explanation(error)) from error


def _count(layers: dict[str, tuple[int, int]], event: dict[str, Any]) -> None:
    """The bytes of one layer, as `docker pull` shows them while it downloads; unpacking counts none."""
    layer, status = event.get("id"), event.get("status")
    detail = event.get("progressDetail") or {}
    if layer is None:
        return
    if status == "Downloading" and detail.get("total"):
        layers[layer] = (int(detail.get("current", 0)), int(detail["total"]))
    elif status in _COMPLETE and layer in layers:
        layers[layer] = (layers[layer][1], layers[layer][1])


def _failed(image: str, said: str) -> ImageMissing:
    reason = said[:_REASON_CHARACTERS].rstrip(".")
    return ImageMissing(
        f"The image {image} is not on this machine and cannot be pulled: {reason}. Load it "
        "(docker load), or choose another."
    )
