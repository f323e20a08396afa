"""The command line: one small module a verb, each of which reads arguments, calls the API and prints."""
