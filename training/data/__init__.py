"""Places and photos of a training batch: choosing them, their order, and their pixels."""
