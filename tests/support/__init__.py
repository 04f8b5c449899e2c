"""What tests of every part share: servers to test against, free ports, and waiting on conditions."""
