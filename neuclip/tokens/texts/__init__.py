"""From the texts of a training batch to token ids: which tokens stay of a text that is too long."""
