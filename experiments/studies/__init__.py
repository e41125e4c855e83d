"""A study from its search space to its winner's test score: what is tried, in which order, how each trial ends."""
