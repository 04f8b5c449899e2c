"""Limits and budgets of keys, services and tenants, counted together by all workers of a node.

layout    the files: one table per worker with one writer, and what the tables of a node share
shared    counters over all tables: what this worker adds to, and what all of them say together
counter   one subject's rows     peer      another worker's table, and whether that worker lives
tally     what this worker counts in its row of a rate     rate      how much of a rate's limits is left
charge    adding a request to several budgets in one step that a kill cannot halve or double
windows   the sliding minute     periods  days and months of UTC
subjects  from a snapshot to what has to be counted
limiter   refuse or grant a request; settle what it used
telling   headers and errors of an answer
"""
