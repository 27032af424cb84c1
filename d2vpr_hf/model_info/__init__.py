"""Facts about models that are known before they are opened: cards, options, preprocessing, and the table of known models."""
