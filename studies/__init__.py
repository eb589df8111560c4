"""Studies: claims and shipped results, re-made by one command each."""
