"""Limits and budgets of keys, services and tenants, counted together by all workers of a node.

layout    the files: one table per worker with one writer, and what the tables of a node share
shared    counters over all tables: what this worker adds to, and what all of them say together
charge    adding a request to several budgets in one step that a kill cannot halve or double
windows   the sliding minute     periods  days and months of UTC
subjects  from a snapshot to what has to be counted
limiter   refuse or grant a request; settle what it used
telling   headers and errors of an answer
"""
