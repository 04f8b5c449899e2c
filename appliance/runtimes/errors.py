"""What runtimes refuse."""

from __future__ import annotations

from appliance.kernel.errors import ApplianceError, BadInput, Misconfigured, Unavailable


class RuntimeFileInvalid(Misconfigured):
    """The process does not start with a runtime that it does not understand."""

    code = "runtime-file-invalid"
    title = "A runtime.toml is not valid"


class CombinationRefused(ApplianceError):
    """The capability matrix: this runtime, device and model do not go together."""

    code = "combination-refused"
    title = "The runtime cannot serve this model on this device"
    status = 422


class ArgumentRefused(BadInput):
    code = "argument-refused"
    title = "An argument or variable of the engine may not be set like this"


class RuntimeNotStartable(ApplianceError):
    """The runtime has no form for this launcher, or its environment is not there yet."""

    code = "runtime-not-startable"
    title = "The runtime cannot be started here"
    status = 409


class EnvironmentFailed(Unavailable):
    """Building a virtual environment failed; the detail ends with the installer's last lines."""

    code = "environment-failed"
    title = "The runtime's environment could not be built"
