"""Usage of models: gateways and providers."""
