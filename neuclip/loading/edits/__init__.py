"""Changes to a text that leave most of what it says as it is, drawn anew at each visit."""
