"""Texts that models write for pairs: what is asked, by whom it is answered, and which answers may train."""
