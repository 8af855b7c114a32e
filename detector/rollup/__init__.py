"""Raw records summed per series and bucket."""
