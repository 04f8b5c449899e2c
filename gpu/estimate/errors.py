"""What cannot be estimated asks for a number; what cannot run says why."""

from __future__ import annotations

from appliance.kernel.errors import BadInput


class EstimateImpossible(BadInput):
    """The model's files do not tell something; the message names the number that would."""

    code = "estimate-impossible"
    title = "The model's memory cannot be estimated"
