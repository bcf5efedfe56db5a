"""The public side: protocols, validation and the way of a request. Knows no transport's insides."""
