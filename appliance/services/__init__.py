"""Inference services: what was asked for (services, deployments) and what runs (replicas)."""
