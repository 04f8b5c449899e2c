"""An independent checker of the invariants: it reads the database, Docker and the kernel and believes nobody else.

It shares no code with the product: its SQL is plain, its table and column names are written out here, and the
meaning of each state is written down again. Where the product changes one of them, the checker has to be changed
by hand, and that is its worth.

    python -m tests.checker --home DIR [--database-url URL] [--docker-host URL]
"""

from tests.checker.run import check, observe
from tests.checker.violations import Violation

__all__ = ["Violation", "check", "observe"]
