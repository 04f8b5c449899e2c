"""What can go wrong with a service that a person must understand."""

from __future__ import annotations

from appliance.kernel.errors import ApplianceError, Conflict, NotFound


class ServiceNotFound(NotFound):
    code = "service-not-found"
    title = "There is no such service"


class ActionNotAllowed(Conflict):
    code = "action-not-allowed"
    title = "The service's state does not permit this"


class PreparationStalled(ApplianceError):
    """The storage or a registry hangs."""

    code = "preparation-stalled"
    title = "The image or the model does not come"
    status = 503


class TenantUntrusted(Conflict):
    code = "tenant-untrusted"
    title = "The launcher does not keep tenants apart"


class ReplicaNotFound(NotFound):
    code = "replica-not-found"
    title = "There is no such replica"


class ServedModelTaken(Conflict):
    code = "served-model-taken"
    title = "Requests call another service so"
