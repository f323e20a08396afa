"""Scripts that reproduce the tables and figures of the README: ``python experiments/<name>.py --help``."""
