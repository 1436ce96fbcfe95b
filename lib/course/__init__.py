"""The `course` command, and the code that it runs."""
