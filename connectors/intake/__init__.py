"""Runner, inbox, validation, attribution."""
