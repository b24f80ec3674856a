"""Files from outside that evaluations, losses and scorers need: what they are, how they get here, where they lie."""
