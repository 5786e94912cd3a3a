"""From files to rows of tokens to batches; separate because nothing here needs torch or a model."""
