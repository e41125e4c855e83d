"""A registered model over HTTP: what stands between the network and the model."""
