"""Plan, apply, verify, undo: the runner and the reaper."""
