"""`curb preflight`: whether a run fits its budgets, before it starts."""
