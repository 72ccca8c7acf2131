"""Pictures and answers -> what is wrong with them, on one page."""
