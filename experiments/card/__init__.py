"""The card of a registered model: what it is, how good, how sure, for what, and where each number comes from."""
