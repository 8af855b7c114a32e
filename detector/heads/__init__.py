"""Statistics: spend compared with demand and its past."""
