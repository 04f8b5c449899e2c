"""Errors of tenants, people, keys and quotas."""

from __future__ import annotations

from appliance.kernel.errors import ApplianceError, BadInput, Conflict, Forbidden


class TenantSuspended(Forbidden):
    code = "tenant-suspended"
    title = "The tenant is suspended"


class PermissionExceeded(Forbidden):
    """An attempt to give away more than one has: a role, a scope of a key, a key that outlives its parent."""

    code = "permission-exceeded"
    title = "More was to be granted than the grantor holds"


class PasswordChangeRequired(Forbidden):
    code = "password-change-required"
    title = "The one-time password must be changed first"


class UnsuitablePassword(BadInput):
    code = "unsuitable-password"
    title = "The new password is not suitable"


class TooManyAttempts(ApplianceError):
    """Failed logins slow down the next one; they never lock anybody out for good."""

    code = "too-many-attempts"
    title = "Too many failed attempts"
    status = 429
    retry_after_s = 1


class LastAdministrator(Conflict):
    code = "last-administrator"
    title = "The last administrator cannot be removed"


class LimitBelowUse(Conflict):
    code = "limit-below-use"
    title = "The limit is below the current use"
