"""The shared package of the RLHF course: losses, trainers, a small world with a known truth, the lessons' checks."""

from importlib.metadata import metadata

__version__ = metadata("rlhf-course")["Version"]

#: The repository's address. It is stored once, in pyproject.toml; badges and Colab links read it here.
REPOSITORY = next(
    url.split(", ", 1)[1] for url in metadata("rlhf-course").get_all("Project-URL") if url.startswith("Repository,")
)
