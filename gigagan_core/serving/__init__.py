"""`gigagan serve`: a model behind HTTP, with batches made across requests, and a page for people."""
