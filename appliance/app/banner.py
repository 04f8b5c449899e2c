"""What a person sees on the terminal: where to go, with which credentials, and a line that works as printed."""

from __future__ import annotations

import sys

from appliance.app.bootstrap import Credentials
from appliance.kernel.settings import Settings
from appliance.kernel.tls import ServerTls


def say(*lines: str) -> None:
    """Print to standard output at once; logs go to standard error."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def show_started(settings: Settings, tls: ServerTls, *, admin: int, tenant: int, metrics: int) -> None:
    host = settings.hostnames[0] if settings.hostnames else "localhost"
    say(
        "",
        f"AI compute appliance is running; its state is in {settings.home}",
        f"  administration  https://{host}:{admin}   (API: /api/v1, documentation: /api)",
        f"  tenants         https://{host}:{tenant}   (API: /api/v1, documentation: /api)",
        f"  metrics         http://127.0.0.1:{metrics}/metrics",
        f"  CA              {tls.ca}",
        f"  CA fingerprint  SHA-256 {tls.fingerprint}",
        "",
    )


def show_credentials(credentials: Credentials) -> None:
    """At once after they were made: what follows may fail, and they are shown only this time."""
    if credentials.admin_password is not None:
        say(f"administrator: admin / {credentials.admin_password}   (shown once; to be changed at the first sign-in)")


def show_stopping(settings: Settings) -> None:
    what = "the gateway and every engine" if settings.on_stop == "stop-all" else "the control plane alone"
    again = "; again (Ctrl-C) to give running requests no more time" if settings.on_stop == "stop-all" else ""
    say("", f"stopping {what} ...{again}")


def show_hurry() -> None:
    say("stopping at once ...")
