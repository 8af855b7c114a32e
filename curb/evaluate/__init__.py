"""Back-tests on recorded streams, and their scores."""
