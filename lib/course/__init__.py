"""The `course` command and what stands behind it."""
