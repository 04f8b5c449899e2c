"""All SQL of the tenants' domain. A query for rows that belong to tenants takes the caller's scope first.

Nothing here writes audit rows or checks permissions: that is what the operations beside this package do.
"""
