"""What a launcher answers when it cannot do what it was asked."""

from __future__ import annotations

from appliance.kernel.errors import ApplianceError, Conflict, NotFound, Unavailable


class LauncherUnavailable(Unavailable):
    """Docker, or the machine, does not answer. Nothing is known: what ran may well run on."""

    code = "launcher-unavailable"
    title = "The launcher does not answer"


class ImageMissing(ApplianceError):
    code = "image-missing"
    title = "The image is not on this machine"
    status = 409


class StartRefused(ApplianceError):
    """The engine could not be started as asked; asking again gives the same answer."""

    code = "start-refused"
    title = "The replica cannot be started"
    status = 409


class StopIncomplete(Unavailable):
    """A killed process is still there, for instance in an uninterruptible call of a driver."""

    code = "stop-incomplete"
    title = "The replica's processes do not end"


class ReplicaUnknown(NotFound):
    code = "replica-unknown"
    title = "The launcher has no such replica"


class ReplicaRunning(Conflict):
    code = "replica-running"
    title = "The replica runs; stop it first"
