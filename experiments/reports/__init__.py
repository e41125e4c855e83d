"""What is shown of a study beside its page: plots, and its arms as JSON."""
