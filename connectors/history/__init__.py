"""Files of the past, whatever their form."""
