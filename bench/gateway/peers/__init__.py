"""The gateways that are compared: each module starts one, with the configuration that lies beside it."""
