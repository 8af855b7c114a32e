"""Budgets: spend of each subject against its amount, burn rates, and the alerts about them."""
