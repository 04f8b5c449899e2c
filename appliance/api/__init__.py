"""The management API: routes, authentication and problem rendering. Thin; what happens is in the domains."""
