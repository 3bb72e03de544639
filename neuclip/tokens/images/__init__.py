"""Which patches of an image the tower reads."""
