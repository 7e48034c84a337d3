"""The plant: agent, trainer, gateway, deployment."""
