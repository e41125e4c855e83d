"""MLflow's model registry: a version's files, its scores, and which version is champion."""
