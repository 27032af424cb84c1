"""Places and photos of a training batch: which, in what order, as which pixels."""
