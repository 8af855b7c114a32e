"""The HTTP port: API, dashboard, inbox and Slack requests."""
