"""Numbers that judge a model; separate because training, evaluation and reports share them."""
