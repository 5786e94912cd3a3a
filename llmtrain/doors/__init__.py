"""One module per foreign library or file format, so that each is replaced in one place."""
