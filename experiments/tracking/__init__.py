"""MLflow's tracking, the only place that talks to it: what it is told, kept until it has heard it, and read back."""
