"""What the command line's parts share: a group of commands that end in one sentence, and that sentence."""

import click

#: What a wrong value or a missing thing raises, and the exit code it gets.
_EXIT_CODES = ((ValueError, 2), (OSError, 1), (MemoryError, 1))
_OUT_OF_MEMORY = "out of memory: lower --batch-size or --max-length (or use a smaller model)"


class Sentence(click.ClickException):
    """One sentence on standard error, and an exit code."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class Commands(click.Group):
    """A group whose commands end in one sentence where they cannot go on, and not in a traceback."""

    def list_commands(self, ctx):
        return list(self.commands)  # in the order in which they are written

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except (click.ClickException, BrokenPipeError):
            raise
        except Exception as error:
            if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):
                raise Sentence(_OUT_OF_MEMORY, 1) from None
            for kind, code in _EXIT_CODES:
                if isinstance(error, kind):
                    raise Sentence(" ".join(str(error).split()) or kind.__name__, code) from None
            raise
