"""Every setting once, with its default, unit and help: the flags of each command and the configs saved with a run.

One frozen dataclass per command. The line below a field is its help text in `resnet-v2 COMMAND --help`;
a type that several commands share brings its own.
"""
