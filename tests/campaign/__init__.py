"""The long tests: every crash point everywhere, pairs of them, workers killed under load, and a soak.

    python -m tests.campaign [--seed N] [--pairs N] [--worker-kills N] [--soak-kills N] [--points N]

What is chosen follows from the seed alone. The result is written to `docs/campaigns/`, failures included.
"""
