"""What a user can mend."""


class ResnetError(Exception):
    """Something the user can mend: one sentence that says which file, what is wrong and what to do."""
