"""What compute refuses."""

from __future__ import annotations

from appliance.kernel.errors import Conflict


class PlacementLost(Conflict):
    """Another replica took the place between planning and leasing; plan again on a new snapshot."""

    code = "placement-lost"
    title = "The place was taken by another replica"
