"""Tenants, members, logins, keys, roles, quotas, usage, audit."""
