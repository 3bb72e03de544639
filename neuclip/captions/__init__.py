"""The texts of every kept pair by source: what the table says, and what is made of it, in parts."""
