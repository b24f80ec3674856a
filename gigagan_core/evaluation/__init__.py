"""How good are the images: distances, scores, recalls, their baselines, and the report that shows them."""
