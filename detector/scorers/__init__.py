"""Other detectors, such as River's, on any metric."""
