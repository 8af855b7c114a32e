"""Routes, ladders, approvers and guards."""
