"""`python -m rlhf_course` is `rlhf-course`."""

from rlhf_course.cli import main

if __name__ == "__main__":
    main(prog_name="rlhf-course")
