"""One module per foreign library; nothing else imports it."""
