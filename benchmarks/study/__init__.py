"""A study of what each method does: arms x tracks x warm starts x seeds, on the toy world. See docs/study.md."""
