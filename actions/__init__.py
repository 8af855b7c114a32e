"""Actions tell people and curb what runs away, reversibly."""
