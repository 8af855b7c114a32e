"""Raw records summed into series and buckets, each event once."""
