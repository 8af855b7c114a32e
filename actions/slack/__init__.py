"""Slack: messages, buttons, slash commands."""
