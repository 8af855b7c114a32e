"""What LiteLLM logs of a call: its shape, what it used and cost, and whose it was."""
