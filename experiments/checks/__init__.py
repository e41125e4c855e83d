"""What `doctor` looks at, and what `verify` compares and repairs."""
