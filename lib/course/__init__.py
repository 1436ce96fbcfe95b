"""The `course` command, and the code that it runs."""


def main() -> None:
    """Run the `course` command. Where its packages are missing, name the part of the course that has them."""
    try:
        from lib.course.cli import main as run
    except ModuleNotFoundError as error:
        if str(error.name).split(".")[0] == "lib":
            raise
        raise SystemExit(
            f"the `course` command needs {error.name}; install it with `pip install -e '.[lab]'`"
        ) from None
    run()
