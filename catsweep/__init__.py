"""Train the small model of a language-model cascade."""
