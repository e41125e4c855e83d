"""A recorded training, trained again and compared."""
