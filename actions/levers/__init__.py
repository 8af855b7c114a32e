"""Limits at gateways, proxies and providers."""
