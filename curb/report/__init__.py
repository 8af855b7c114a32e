"""`curb report`: spend of a week or a month per tag, from the log, for people who pay for it."""
